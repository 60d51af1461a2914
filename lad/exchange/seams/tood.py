"""Seam of TOOD: the scores and boxes that enter its alignment metric are exchanged."""

from __future__ import annotations

from collections.abc import Sequence

from lad.exchange.replay import AssignerCall
from lad.exchange.seams.assigner import AssignerSeam, matched_overlaps
from lad.heads.dense import DensePredictions, flatten_levels, level_sizes

import torch
from mmdet.models.dense_heads import TOODHead
from mmdet.models.task_modules import AssignResult
from torch import Tensor


class TOODSeam(AssignerSeam):
    """Seam of TOOD, which assigns by the alignment s^alpha u^beta of a prior's score s and its box's IoU u.

    This holds from the student's ``initial_epoch`` on; before, its ``initial_assigner`` decides from anchors alone.
    """

    heads = (TOODHead,)
    works_with = "TOODHead"
    sites = ("alignment_assigner",)
    scores = "probabilities"

    def predictions(  # noqa: D102
        self, head: TOODHead, outputs: tuple[Sequence[Tensor], Sequence[Tensor]]
    ) -> DensePredictions:
        cls_scores, bbox_preds = outputs
        # Boxes are decoded in units of the stride.
        strides = [stride[0] for stride in head.prior_generator.strides]
        bboxes = [level * stride for level, stride in zip(bbox_preds, strides, strict=True)]
        return DensePredictions(
            scores=flatten_levels(cls_scores, head.cls_out_channels),
            bboxes=flatten_levels(bboxes, 4),
            sizes=level_sizes(cls_scores),
        )

    def uses_predictions(self, head: TOODHead) -> bool:  # noqa: D102
        return getattr(head, "epoch", head.initial_epoch) >= head.initial_epoch

    def update_qualities(self, call: AssignerCall, result: AssignResult) -> None:  # noqa: D102
        if len(call.gt_instances) == 0:
            return
        matched = (result.gt_inds - 1).clamp(min=0)
        labels = call.gt_instances.labels[matched]
        score = call.pred_instances.scores.detach().gather(1, labels[:, None])[:, 0]
        overlaps = matched_overlaps(call, result)
        metrics = score ** call.arguments["alpha"] * overlaps ** call.arguments["beta"]
        positive = result.gt_inds > 0
        result.max_overlaps = torch.where(positive, overlaps, result.max_overlaps)
        result.assign_metrics = torch.where(positive, metrics, result.assign_metrics)
