"""PAA head with batched label assignment."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lad.assignment.candidates import PAACandidates, find_candidates
from lad.assignment.max_iou import assign_max_iou, assign_one_by_one, is_batchable
from lad.assignment.paa import PAAReassignment, reassign
from lad.assignment.priors import PriorGrid, prior_grid
from lad.assignment.score_voting import vote_boxes
from lad.errors import ConfigError
from lad.heads.dense import flatten_levels, level_sizes
from lad.losses import ProbabilityFocalLoss

import torch
from mmdet.models.dense_heads import PAAHead
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps
from mmdet.utils import InstanceList, OptInstanceList, reduce_mean
from torch import Tensor

# mmdet.models.dense_heads.paa_head.EPS: the least weight of a positive's box loss.
EPS = 1e-12


@dataclass(frozen=True)
class PAAPredictions:
    """Outputs of a PAA head over the N * P anchors of a batch, ordered by image, then as in :class:`PriorGrid`.

    Attributes:
        cls_scores: (N * P, C) logits; probabilities where the head ``predicts_probabilities``.
        bbox_preds: (N * P, 4) deltas.
        iou_preds: (N * P, 1) logits; None for a head without an IoU branch.
        num_images: N.
    """

    cls_scores: Tensor
    bbox_preds: Tensor
    iou_preds: Tensor | None
    num_images: int

    @cached_property
    @torch.no_grad()
    def finite(self) -> Tensor:
        """(N,) bool: whether an image's scores and deltas are all finite. NaN and infinity survive a sum."""
        total = self.cls_scores.sum(1, dtype=torch.float32) + self.bbox_preds.sum(1, dtype=torch.float32)
        return total.view(self.num_images, -1).sum(1).isfinite()

    @classmethod
    def from_levels(
        cls,
        head: PAAHead,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        iou_preds: list[Tensor] | None,
    ) -> PAAPredictions:
        """Flatten what ``head.forward`` returned, (N, A * channels, H, W) a level; None for no IoU branch."""
        return cls(
            cls_scores=flatten_levels(cls_scores, head.cls_out_channels).flatten(0, 1),
            bbox_preds=flatten_levels(bbox_preds, 4).flatten(0, 1),
            iou_preds=None if iou_preds is None else flatten_levels(iou_preds, 1).flatten(0, 1),
            num_images=len(cls_scores[0]),
        )


class PAAScorer:
    """Scores candidates by the loss that PAA has for each as a positive.

    These scores decide which candidates become positive. A head scores candidates with its own predictions; in
    label-assignment distillation with the teacher's.

    Args:
        head: The head whose loss modules, weights and box coder are used.
        predictions: Outputs of that head.
    """

    def __init__(self, head: PAAHead, predictions: PAAPredictions) -> None:
        self.head = head
        self.predictions = predictions

    @property
    def finite(self) -> Tensor:
        """(N,) bool: whether an image's predictions are all finite."""
        return self.predictions.finite

    @torch.no_grad()
    def losses(self, candidates: PAACandidates, index: Tensor | None = None) -> Tensor:
        """(K,) float32 classification loss plus box loss of each candidate (PAA, Eq. 3).

        Args:
            candidates: The candidates.
            index: (K,) int64, where their predictions are; by default at ``candidates.index``.
        """
        index = candidates.index if index is None else index
        cls_scores = self.predictions.cls_scores[index].float()
        bbox_preds = self.predictions.bbox_preds[index].float()
        boxes = self.head.bbox_coder.decode(candidates.anchors, bbox_preds)
        loss_cls = self.head.loss_cls(cls_scores, candidates.labels, reduction_override="none").sum(-1)
        loss_bbox = self.head.loss_bbox(boxes, candidates.gt_bboxes, reduction_override="none")
        pos_weight = self.head.train_cfg.get("pos_weight", -1)
        return loss_bbox + (loss_cls * pos_weight if pos_weight > 0 else loss_cls)


@MODELS.register_module()
class BatchedPAAHead(PAAHead):
    """Drop-in replacement of MMDetection's :class:`PAAHead`: same parameters, same results, no loop over objects.

    Candidates, their losses, the mixtures and the separation into positives are computed for all images, objects
    and levels together; the assignment waits for the device once. Mixtures are fitted in float64 (MMDetection
    passes float32 to scikit-learn). With ``train_cfg.allowed_border`` from 0 on, an image without an anchor inside
    teaches nothing; MMDetection stops there.

    Args:
        box_loss_weight: How the box loss is averaged over the positives: ``'iou'`` weights each by its IoU as
            ``PAAHead`` does, ``'uniform'`` divides by their number as ``LADHead`` and the authors' LAD code do.
        args, kwargs: As for ``PAAHead``.

    Raises:
        ConfigError: ``box_loss_weight`` is unknown, ``reg_decoded_bbox`` is not set, or ``loss_cls`` takes
            probabilities where the head predicts logits or the other way round.
    """

    #: Whether class scores are probabilities rather than logits.
    predicts_probabilities = False

    def __init__(self, *args: Any, box_loss_weight: str = "iou", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if box_loss_weight not in ("iou", "uniform"):
            raise ConfigError(
                f"BatchedPAAHead: box_loss_weight must be 'iou' or 'uniform', got {box_loss_weight!r}."
            )
        if not self.reg_decoded_bbox:
            raise ConfigError(
                f"{type(self).__name__} learns boxes, not deltas: set reg_decoded_bbox=True and a loss of boxes "
                "(loss_bbox=dict(type='GIoULoss', loss_weight=1.3))."
            )
        self.box_loss_weight = box_loss_weight
        self._check_class_loss()

    def _check_class_loss(self) -> None:
        loss = self.loss_cls
        takes = isinstance(loss, ProbabilityFocalLoss) or getattr(loss, "activated", False)
        if takes == self.predicts_probabilities and self.use_sigmoid_cls:
            return
        kind, fitting = (
            ("probabilities", "ProbabilityFocalLoss")
            if self.predicts_probabilities
            else ("logits", "FocalLoss")
        )
        raise ConfigError(
            f"{type(self).__name__} predicts {kind}, each class alone, and loss_cls={type(loss).__name__} does not "
            f"take them: use loss_cls=dict(type='{fitting}', use_sigmoid=True)."
        )

    def scorer(self, predictions: PAAPredictions) -> PAAScorer:
        """Scorer that decides which candidates are positive: that of these predictions, unless replaced."""
        return PAAScorer(self, predictions)

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        iou_preds: list[Tensor] | None,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses ``loss_cls``, ``loss_bbox`` and ``loss_iou``; arguments as for ``PAAHead.loss_by_feat``.

        Without an IoU branch ``iou_preds`` is None and there is no ``loss_iou``.
        """
        predictions = PAAPredictions.from_levels(self, cls_scores, bbox_preds, iou_preds)
        scorer = self.scorer(predictions)
        grid = prior_grid(self.prior_generator, level_sizes(cls_scores), device=cls_scores[0].device)
        assigned = self.pre_assign(grid, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore)
        # Both are checked, as the scorer may be the teacher's.
        finite = scorer.finite & predictions.finite
        candidates = find_candidates(grid, assigned, batch_gt_instances, batch_img_metas, finite)
        assignment = self.reassign(scorer.losses(candidates), candidates)
        return self.assigned_losses(predictions, candidates, assignment)

    @torch.no_grad()
    def pre_assign(
        self,
        grid: PriorGrid,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> Tensor:
        """Max-IoU assignment of the anchors, (N, P): see :func:`assign_max_iou`."""
        inside = grid.inside(batch_img_metas, self.train_cfg["allowed_border"])
        ignore = batch_gt_instances_ignore or [None] * len(batch_gt_instances)
        has_ignored_regions = any(instances is not None and len(instances) for instances in ignore)
        if is_batchable(self.assigner, self.sampler, has_ignored_regions):
            bboxes = [instances.bboxes for instances in batch_gt_instances]
            return assign_max_iou(grid.anchors, inside, bboxes, self.assigner)
        return assign_one_by_one(
            grid.anchors, inside, batch_gt_instances, ignore, self.assigner, self.sampler
        )

    def reassign(self, losses: Tensor, candidates: PAACandidates) -> PAAReassignment:
        """Decide which candidates are positive by their losses (K,)."""
        return reassign(
            losses,
            candidates.gt_index,
            candidates.level,
            num_gts=candidates.num_gts,
            num_levels=candidates.grid.num_levels,
            topk=self.topk,
            covariance_type=self.covariance_type,
        )

    def assigned_losses(
        self, predictions: PAAPredictions, candidates: PAACandidates, assignment: PAAReassignment
    ) -> dict[str, Tensor]:
        """Compute the head's losses for given positives.

        Box and IoU terms are computed on PAA's slots (top-k a level and ground truth, a number known on the host)
        with weight 0 for those that are not positive, which avoids waiting for the number of positives.
        """
        total = len(predictions.cls_scores)
        if len(candidates) == 0:
            return self._background_losses(predictions, candidates)
        slots = assignment.candidate.flatten()
        positive = assignment.positive.flatten()
        index = candidates.index[slots]

        # An extra entry after the anchors receives the labels of slots that are not positive.
        labels = candidates.labels.new_full((total + 1,), self.num_classes)
        labels.scatter_(0, torch.where(positive, index, total), candidates.labels[slots])

        boxes = self.bbox_coder.decode(candidates.anchors[slots], predictions.bbox_preds[index])
        targets = candidates.gt_bboxes[slots]
        iou = bbox_overlaps(boxes.detach(), targets, is_aligned=True)
        weight = positive.to(iou.dtype)
        # Averaged over processes, so that they train as one process with the same total batch.
        num_pos, iou_sum = reduce_mean(torch.stack([positive.sum().float(), (weight * iou).sum().float()]))
        loss_cls = self._classification_loss(predictions, candidates, labels[:-1], num_pos)
        # Weighted here: the loss modules test whether any weight is positive, which waits for the device.
        loss_bbox = self.loss_bbox(boxes, targets, reduction_override="none")
        if self.box_loss_weight == "iou":
            box_weight, box_factor = weight * iou.clamp(min=EPS), iou_sum
        else:
            box_weight, box_factor = weight, num_pos
        losses = dict(
            loss_cls=loss_cls, loss_bbox=weight_reduce_loss(loss_bbox, box_weight, avg_factor=box_factor)
        )
        if predictions.iou_preds is not None:
            loss_iou = self.loss_centerness(
                predictions.iou_preds[index], iou.unsqueeze(-1), reduction_override="none"
            )
            losses["loss_iou"] = weight_reduce_loss(loss_iou, weight.unsqueeze(-1), avg_factor=num_pos)
        return losses

    def _classification_loss(
        self, predictions: PAAPredictions, candidates: PAACandidates, labels: Tensor, num_pos: Tensor
    ) -> Tensor:
        weights = (~candidates.ignored).float()
        if self.train_cfg["pos_weight"] > 0:
            weights[candidates.index] = float(self.train_cfg["pos_weight"])
        factor = num_pos.clamp(min=predictions.num_images)
        return self.loss_cls(predictions.cls_scores, labels, weights, avg_factor=factor)

    def _background_losses(self, predictions: PAAPredictions, candidates: PAACandidates) -> dict[str, Tensor]:
        """Compute the losses of a batch without objects; every branch stays in the graph, as DDP requires."""
        labels = torch.full_like(candidates.ignored, self.num_classes, dtype=torch.long)
        # A collective operation: other processes may have positives, and wait for this one.
        num_pos, _ = reduce_mean(predictions.bbox_preds.new_zeros(2, dtype=torch.float32))
        losses = dict(
            loss_cls=self._classification_loss(predictions, candidates, labels, num_pos),
            loss_bbox=predictions.bbox_preds.sum() * 0,
        )
        if predictions.iou_preds is not None:
            losses["loss_iou"] = predictions.iou_preds.sum() * 0
        return losses

    def score_voting(
        self,
        det_bboxes: Tensor,
        det_labels: Tensor,
        mlvl_bboxes: Tensor,
        mlvl_nms_scores: Tensor,
        score_thr: float,
    ) -> tuple[Tensor, Tensor]:
        """Average boxes with the overlapping ones, all detections at once: see :func:`vote_boxes`."""
        return vote_boxes(det_bboxes, det_labels, mlvl_bboxes, mlvl_nms_scores, score_thr)
