"""Test-time augmentation: the detections of all views vote for the boxes."""

from __future__ import annotations

from typing import Any

from lad.errors import ConfigError

import torch
from mmcv.ops import batched_nms
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData


@torch.no_grad()
def soft_vote(instances: InstanceData, iou_threshold: float, score_thr: float) -> InstanceData:
    """Merge detections of several views of one image.

    NMS of each class at ``iou_threshold`` leaves the best detections; each detection that it suppresses votes for the
    one that suppressed it. A detection that is left gets the score-weighted mean box of its voters and itself and keeps
    its own score, the largest of them. A voter returns with its own box and its score times (1 - IoU with what
    suppressed it) where that reaches ``score_thr``.

    The "soft-vote" of the PAA authors' multi-scale test (github.com/kkhoot/PAA, ``engine/bbox_aug_vote.py``; 0.66 and
    0.05 there), with boxes measured without the extra pixel that they add to width and height.

    Args:
        instances: ``bboxes`` (n, 4) x1, y1, x2, y2 in pixels of one common image, ``scores`` (n,) and ``labels`` (n,).
        iou_threshold: Overlap, exclusive, from which detections of a class are the same object.
        score_thr: Least score of a voter that returns.

    Returns:
        The same three fields, by falling score.
    """
    if len(instances) == 0:
        return instances
    bboxes, scores, labels = instances.bboxes, instances.scores, instances.labels
    keep = batched_nms(bboxes, scores, labels, dict(type="nms", iou_threshold=iou_threshold))[1]
    overlaps = bbox_overlaps(bboxes[keep], bboxes) * (labels[keep, None] == labels)
    # A detection belongs to the first that may suppress it. What NMS suppressed by its own rounding belongs to none.
    same = overlaps > iou_threshold
    same[:, keep] = False
    rank = torch.arange(len(keep), device=keep.device)
    same[rank, keep] = True
    voter = (same.cumsum(0) == 1) & same
    weight = voter * scores
    voted = (weight @ bboxes) / weight.sum(1, keepdim=True)
    # A detection alone keeps its box to the bit, and one of score 0 keeps it at all.
    alone = (voter.sum(1, keepdim=True) == 1) | (weight.sum(1, keepdim=True) == 0)
    has_owner, softened = voter.any(0), scores * (1 - (overlaps * voter).amax(0))
    returns = has_owner & (softened >= score_thr)
    returns[keep] = False
    merged = InstanceData(
        bboxes=torch.cat([torch.where(alone, bboxes[keep], voted), bboxes[returns]]),
        scores=torch.cat([scores[keep], softened[returns]]),
        labels=torch.cat([labels[keep], labels[returns]]),
    )
    return merged[merged.scores.argsort(descending=True, stable=True)]


@MODELS.register_module()
class SoftVoteTTAModel(DetTTAModel):
    """MMDetection's test-time augmentation with :func:`soft_vote` in the place of plain NMS.

    Flips and scales are undone by MMDetection. Used as MMDetection's: ``tta_model`` and ``tta_pipeline`` in the config
    and ``tools/test.py --tta``.

    Args:
        tta_cfg: ``nms=dict(type='nms', iou_threshold=0.66)``, ``score_thr=0.05`` and ``max_per_img=100``, by default.
        kwargs: As for MMEngine's ``BaseTTAModel``: ``module``, the detector.

    Raises:
        ConfigError: ``tta_cfg`` has other settings, or an NMS that suppresses nothing (soft-NMS).
    """

    def __init__(self, tta_cfg: dict | None = None, **kwargs: Any) -> None:
        settings: dict[str, Any] = dict(
            nms=dict(type="nms", iou_threshold=0.66), score_thr=0.05, max_per_img=100
        )
        unknown = set(tta_cfg or {}) - set(settings)
        if unknown:
            raise ConfigError(
                f"SoftVoteTTAModel: tta_cfg has no {sorted(unknown)[0]!r}; it has {', '.join(settings)}."
            )
        settings.update(tta_cfg or {})
        nms = settings["nms"]
        if (
            nms.get("type", "nms") != "nms"
            or set(nms) - {"type", "iou_threshold"}
            or "iou_threshold" not in nms
        ):
            raise ConfigError(
                f"SoftVoteTTAModel: tta_cfg.nms must be dict(type='nms', iou_threshold=...), got {dict(nms)!r}: "
                "what an NMS of each class suppresses is what votes."
            )
        super().__init__(tta_cfg=ConfigDict(settings), **kwargs)

    def _merge_single_sample(self, data_samples: list[DetDataSample]) -> DetDataSample:
        """One image's views as one prediction, in the first view's sample."""
        views = [sample.pred_instances for sample in data_samples]
        bboxes, scores = self.merge_aug_bboxes(
            [view.bboxes for view in views],
            [view.scores for view in views],
            [sample.metainfo for sample in data_samples],
        )
        instances = InstanceData(
            bboxes=bboxes, scores=scores, labels=torch.cat([view.labels for view in views])
        )
        merged = soft_vote(instances, self.tta_cfg.nms.iou_threshold, self.tta_cfg.score_thr)
        data_samples[0].pred_instances = merged[: self.tta_cfg.max_per_img]
        return data_samples[0]
