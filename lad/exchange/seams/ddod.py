"""Seam of DDOD: the predictions that enter its two assigners are exchanged."""

from __future__ import annotations

from collections.abc import Sequence

from lad.exchange.replay import AssignerCall
from lad.exchange.seams.assigner import AssignerSeam
from lad.heads.dense import DensePredictions, flatten_levels, level_sizes

import torch
from mmdet.models.dense_heads import DDODHead
from mmdet.models.task_modules import AssignResult
from torch import Tensor


class DDODSeam(AssignerSeam):
    """Seam of DDOD, which assigns twice, for classes and boxes, by ATSS on s^(1 - alpha) u^alpha of score s and IoU u.

    No quality of a match enters its losses, so modes ``'hard'`` and ``'soft'`` are the same.
    """

    heads = (DDODHead,)
    works_with = "DDODHead"
    sites = ("cls_assigner", "reg_assigner")
    scores = "logits"

    def predictions(self, head: DDODHead, outputs: Sequence[Sequence[Tensor]]) -> DensePredictions:  # noqa: D102
        cls_scores, bbox_preds, _ = outputs
        sizes = level_sizes(cls_scores)
        anchors = torch.cat(head.prior_generator.grid_priors(sizes, device=cls_scores[0].device))
        deltas = flatten_levels(bbox_preds, 4)
        bboxes = head.bbox_coder.decode(anchors.repeat(len(deltas), 1), deltas.flatten(0, 1))
        return DensePredictions(
            scores=flatten_levels(cls_scores, head.cls_out_channels),
            bboxes=bboxes.view_as(deltas),
            sizes=sizes,
        )

    def update_qualities(self, call: AssignerCall, result: AssignResult) -> None:
        """Do nothing: no loss uses a quality."""
