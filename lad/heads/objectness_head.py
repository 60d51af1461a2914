"""Base of PAA heads whose class score contains an objectness."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from lad.errors import ConfigError
from lad.heads.batched_paa_head import BatchedPAAHead

import torch
from mmcv.cnn import Scale
from mmdet.models.layers import multiclass_nms
from mmdet.structures.bbox import scale_boxes
from mmdet.utils import ConfigType
from mmengine.structures import InstanceData
from torch import Tensor


class ObjectnessPAAHead(BatchedPAAHead):
    """PAA head whose class scores are probabilities, computed from a class prediction and an objectness.

    The objectness has no labels: it is learned through the class loss alone, which is therefore a loss of
    probabilities. Nguyen et al., "Improving Object Detection by Label Assignment Distillation", WACV 2022, arXiv
    2108.10520, appendix.

    Everything else is as in PAA. Without an IoU branch there is no ``loss_iou``, the third output is None, and boxes
    are ranked by the class probability instead of sqrt(probability * IoU).

    Args:
        with_iou_branch: Whether the head has PAA's branch that predicts the IoU of each box.
        args, kwargs: As for :class:`BatchedPAAHead`. ``loss_cls`` must be a loss of probabilities
            (``ProbabilityFocalLoss``), and there must be one anchor a location.

    Raises:
        ConfigError: ``anchor_generator`` gives several anchors a location, or ``loss_cls`` does not fit.
    """

    predicts_probabilities = True

    def __init__(self, *args: Any, with_iou_branch: bool = True, **kwargs: Any) -> None:
        self.with_iou_branch = with_iou_branch
        super().__init__(*args, **kwargs)
        if self.num_base_priors != 1:
            raise ConfigError(
                f"{type(self).__name__}: the anchor_generator gives {self.num_base_priors} anchors a location, and an "
                "objectness belongs to a location: use one ratio and scales_per_octave=1, as PAA does."
            )

    def _init_layers(self) -> None:
        super()._init_layers()
        if not self.with_iou_branch:
            # Distributed training fails on parameters without a gradient.
            del self.atss_centerness
        self._init_objectness()

    @abstractmethod
    def _init_objectness(self) -> None:
        """Create the layers of the objectness; their input is the regression tower's output."""

    @abstractmethod
    def class_scores(self, cls_logits: Tensor, reg_feat: Tensor) -> Tensor:
        """Class probabilities that include the objectness.

        Args:
            cls_logits: (N, C, H, W) of the classification layer.
            reg_feat: (N, feat_channels, H, W), output of the regression tower.

        Returns:
            (N, C, H, W) float32 in [0, 1].
        """

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor], list[Tensor] | None]:
        """Class probabilities, box deltas and IoU logits of each level; None for the last without an IoU branch."""
        cls_scores, bbox_preds, iou_preds = super().forward(x)
        return cls_scores, bbox_preds, iou_preds if self.with_iou_branch else None

    def forward_single(self, x: Tensor, scale: Scale) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute the outputs of :meth:`forward` for one level, features (N, in_channels, H, W)."""
        cls_feat = reg_feat = x
        for cls_conv in self.cls_convs:
            cls_feat = cls_conv(cls_feat)
        for reg_conv in self.reg_convs:
            reg_feat = reg_conv(reg_feat)
        bbox_pred = scale(self.atss_reg(reg_feat)).float()
        iou_pred = self.atss_centerness(reg_feat) if self.with_iou_branch else None
        return self.class_scores(self.atss_cls(cls_feat), reg_feat), bbox_pred, iou_pred

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: list[Tensor | None],
        mlvl_priors: list[Tensor],
        img_meta: dict,
        cfg: ConfigType | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        """Post-process one image as PAA does, with class scores that are probabilities."""
        cfg = self.test_cfg if cfg is None else cfg
        nms_pre = cfg.get("nms_pre", -1)
        mlvl_bboxes, mlvl_scores = [], []
        levels = zip(cls_score_list, bbox_pred_list, score_factor_list, mlvl_priors, strict=True)
        for cls_score, bbox_pred, iou_pred, priors in levels:
            scores = cls_score.permute(1, 2, 0).reshape(-1, self.cls_out_channels)
            deltas = bbox_pred.permute(1, 2, 0).reshape(-1, 4)
            if iou_pred is not None:
                scores = (scores * iou_pred.reshape(-1, 1).float().sigmoid()).sqrt()
            if 0 < nms_pre < len(scores):
                best = scores.amax(dim=1).topk(nms_pre).indices
                scores, deltas, priors = scores[best], deltas[best], priors[best]
            mlvl_bboxes.append(self.bbox_coder.decode(priors, deltas, max_shape=img_meta["img_shape"]))
            mlvl_scores.append(scores)
        bboxes, scores = torch.cat(mlvl_bboxes), torch.cat(mlvl_scores)
        if rescale:
            bboxes = scale_boxes(bboxes, [1 / factor for factor in img_meta["scale_factor"]])
        # MMDetection's NMS expects a column for the background.
        scores = torch.cat([scores, scores.new_zeros(len(scores), 1)], dim=1)
        det_bboxes, det_labels = multiclass_nms(bboxes, scores, cfg.score_thr, cfg.nms, cfg.max_per_img)
        if self.with_score_voting and len(det_bboxes) > 0:
            det_bboxes, det_labels = self.score_voting(det_bboxes, det_labels, bboxes, scores, cfg.score_thr)
        return InstanceData(bboxes=det_bboxes[:, :4], scores=det_bboxes[:, 4], labels=det_labels)
