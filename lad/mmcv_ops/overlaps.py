"""Pairwise overlaps of boxes."""

from __future__ import annotations

from lad.mmcv_ops.precision import upcast

import torch
from torch import Tensor


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Intersection over union (``mode`` 0) or over the first box (1).

    Args:
        bboxes1: ``(M, 4)`` boxes ``(x1, y1, x2, y2)``.
        bboxes2: ``(N, 4)``, where N is M if ``aligned``.
        ious: Filled in place: ``(M, N)``, or ``(M,)`` if ``aligned``.
        mode: 0 or 1.
        aligned: Whether boxes of equal index form the pairs.
        offset: 1 where a box includes its last pixel, else 0.
    """
    first, second = upcast(bboxes1, bboxes2)
    if not aligned:
        first = first[:, None]
    sides = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    intersection = (sides + offset).clamp(min=0).prod(dim=-1)
    area1, area2 = ((boxes[..., 2:] - boxes[..., :2] + offset).prod(dim=-1) for boxes in (first, second))
    ious.copy_(intersection / (area1 + area2 - intersection if mode == 0 else area1))
