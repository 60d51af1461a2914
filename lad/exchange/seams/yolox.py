"""Seam of YOLOX: the predictions that enter SimOTA's cost matrix are exchanged."""

from __future__ import annotations

from collections.abc import Sequence

from lad.exchange.seams.assigner import AssignerSeam
from lad.heads.dense import DensePredictions, flatten_levels, level_sizes

import torch
from mmdet.models.dense_heads import YOLOXHead
from torch import Tensor


class YOLOXSeam(AssignerSeam):
    """Seam of YOLOX, which matches by SimOTA's cost of class and IoU; the IoU of a match scales its class target.

    Its assigner is not called for images without objects.
    """

    heads = (YOLOXHead,)
    works_with = "YOLOXHead"
    scores = "probabilities"

    def predictions(self, head: YOLOXHead, outputs: Sequence[Sequence[Tensor]]) -> DensePredictions:  # noqa: D102
        cls_scores, bbox_preds, objectnesses = outputs
        sizes = level_sizes(cls_scores)
        priors = head.prior_generator.grid_priors(
            sizes, dtype=cls_scores[0].dtype, device=cls_scores[0].device, with_stride=True
        )
        scores = flatten_levels(cls_scores, head.cls_out_channels).sigmoid()
        return DensePredictions(
            scores=(scores * flatten_levels(objectnesses, 1).sigmoid()).sqrt_(),
            bboxes=head._bbox_decode(torch.cat(priors), flatten_levels(bbox_preds, 4)),
            sizes=sizes,
        )
