"""Distance between a student's adapted features and a teacher's."""

from __future__ import annotations

from lad.losses.precision import upcast_pair
from lad.losses.weighted import WeightedLoss

import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

NORMS = {"l2": F.mse_loss, "l1": F.l1_loss}


def hint_loss(student: Tensor, teacher: Tensor, norm: str = "l2") -> Tensor:
    """Element-wise squared (L2) or absolute (L1) difference of features, in float32.

    Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation", NIPS 2017, Eq. 5: the hint
    losses ||V - Z||^2 and ||V - Z||_1. The paper leaves their normalisation open; here it is the caller's.

    Args:
        student: Adapted features V of any shape and float dtype.
        teacher: Features Z of the same shape; no gradient flows to them.
        norm: ``'l2'`` or ``'l1'``.

    Returns:
        The loss of each element, float32.

    Raises:
        ValueError: the shapes differ, or there is no such norm.

    Example:
        >>> import torch
        >>> from lad.losses import hint_loss
        >>> student, teacher = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 3.0])
        >>> hint_loss(student, teacher)
        tensor([1., 4.])
        >>> hint_loss(student, teacher, norm="l1")
        tensor([1., 2.])
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"features of shape {tuple(student.shape)} (student) and {tuple(teacher.shape)} (teacher)"
        )
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    return NORMS[norm](*upcast_pair(student, teacher), reduction="none")


@MODELS.register_module()
class HintLoss(WeightedLoss):
    """:func:`hint_loss` with a weight and a reduction, called as MMDetection's losses are.

    Args:
        norm: ``'l2'`` or ``'l1'``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the result.

    Example:
        >>> import torch
        >>> from lad.losses import HintLoss
        >>> student, teacher = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 3.0])
        >>> HintLoss()(student, teacher)
        tensor(2.5000)
    """

    def __init__(self, norm: str = "l2", reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        self.norm = norm

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of each feature of the student, adapted, and of the teacher, in their shape."""
        return hint_loss(pred, target, self.norm)
