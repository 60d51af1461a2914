"""Seam of RTMDet: the predictions that enter its cost matrix are exchanged."""

from __future__ import annotations

from collections.abc import Sequence

from lad.exchange.seams.assigner import AssignerSeam
from lad.heads.dense import DensePredictions, flatten_levels, level_sizes

import torch
from mmdet.models.dense_heads import RTMDetHead
from mmdet.structures.bbox import distance2bbox
from torch import Tensor


class RTMDetSeam(AssignerSeam):
    """Seam of RTMDet, which matches by a cost of class, IoU and centre; the IoU of a match scales its class target."""

    heads = (RTMDetHead,)
    works_with = "RTMDetHead, RTMDetSepBNHead"
    scores = "logits"

    def predictions(self, head: RTMDetHead, outputs: Sequence[Sequence[Tensor]]) -> DensePredictions:  # noqa: D102
        cls_scores, bbox_preds = outputs[:2]
        sizes = level_sizes(cls_scores)
        priors = head.prior_generator.grid_priors(sizes, device=cls_scores[0].device, with_stride=True)
        return DensePredictions(
            scores=flatten_levels(cls_scores, head.cls_out_channels),
            bboxes=distance2bbox(torch.cat(priors), flatten_levels(bbox_preds, 4)),
            sizes=sizes,
        )
