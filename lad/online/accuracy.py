"""Agreement of two sets of boxes on an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_iou

IOU = 0.5


@dataclass(frozen=True)
class Agreement:
    """Numbers of boxes, and of the pairs among them.

    Attributes:
        pairs: Matched pairs.
        found: Boxes of the one set.
        wanted: Boxes of the other.
    """

    pairs: int = 0
    found: int = 0
    wanted: int = 0

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(self.pairs + other.pairs, self.found + other.found, self.wanted + other.wanted)

    @property
    def f1(self) -> float:
        """2 pairs / (found + wanted), the harmonic mean of precision and recall; 1 where there are no boxes at all."""
        boxes = self.found + self.wanted
        return 2 * self.pairs / boxes if boxes else 1.0


def agreement(found: InstanceData, wanted: InstanceData, iou: float = IOU) -> Agreement:
    """Match boxes of the same class one to one, as many as possible.

    The largest number of pairs depends on no order and no scores, so teacher and student are treated alike. The result
    is on the host: with boxes on an accelerator the call waits for it.

    Args:
        found, wanted: With ``bboxes`` (N, 4), x1, y1, x2, y2, and ``labels`` (N,).
        iou: Least IoU of a pair.
    """
    if not len(found) or not len(wanted):
        return Agreement(0, len(found), len(wanted))
    return Agreement(int(_pairs(found, wanted, iou).sum()), len(found), len(wanted))


def _pairs(found: InstanceData, wanted: InstanceData, iou: float) -> np.ndarray:
    """(min(N, M),) whether each pair of the best assignment is one."""
    fits: Tensor = box_iou(found.bboxes.float(), wanted.bboxes.float()) >= iou
    fits &= found.labels[:, None] == wanted.labels
    matrix = fits.cpu().numpy()
    return matrix[linear_sum_assignment(matrix, maximize=True)]


def above(instances: InstanceData, min_score: float) -> InstanceData:
    """The boxes that score at least so much, with ``bboxes``, ``labels`` and ``scores`` alone, on the host."""
    parts = {name: getattr(instances, name).detach().cpu() for name in ("bboxes", "labels", "scores")}
    kept = parts["scores"] >= min_score
    return InstanceData(**{name: part[kept] for name, part in parts.items()})


def no_instances() -> InstanceData:
    """An image without boxes."""
    return InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), scores=torch.zeros(0)
    )
