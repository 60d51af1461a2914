"""Focal KL divergence of binary predictions."""

from __future__ import annotations

from lad.base.settings import check_numbers
from lad.losses.knowledge_distillation import binary_kl_divergence
from lad.losses.precision import upcast_pair
from lad.losses.weighted import WeightedLoss

from mmdet.registry import MODELS
from torch import Tensor

# Under the root of the focal factor: |p_t - p_s|^gamma has no gradient where the two agree and gamma < 1.
SMOOTHING = 1e-6


def focal_kl_loss(student: Tensor, teacher: Tensor, gamma: float = 0.5) -> Tensor:
    """KL divergence of two Bernoulli distributions, weighted by how far apart they are.

    With p = sigmoid(logit),  KL = p_t log(p_t / p_s) + (1 - p_t) log((1 - p_t) / (1 - p_s)),  times
    ((p_t - p_s)^2 + 1e-6)^(gamma / 2), which is |p_t - p_s|^gamma with a gradient at 0.

    The soft-label loss of Nguyen et al., "Improving Object Detection by Label Assignment Distillation", WACV 2022,
    arXiv 2108.10520, with the smoothing of the authors' code. Computed from logits in float32: nothing overflows, and
    a teacher that is certain (p_t of 0 or 1) is no exception.

    Args:
        student: Logits of any shape and float dtype.
        teacher: Logits of the same shape; no gradient flows to them.
        gamma: Focusing exponent, at least 0; 0 is the plain KL divergence.

    Returns:
        The loss of each element, float32, in the shape of the logits; 0 where the two are equal.

    Raises:
        ValueError: the shapes differ, or gamma is negative.

    Example:
        >>> import torch
        >>> from lad.losses import focal_kl_loss
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> focal_kl_loss(student, teacher)
        tensor([[0.0000, 0.0533]])
    """
    if gamma < 0:
        raise ValueError(f"gamma must not be negative, got {gamma}")
    # Cast once, so that both gradients of the student are added up before they are rounded to half precision.
    student, teacher = upcast_pair(student, teacher)
    divergence = binary_kl_divergence(student, teacher)
    distance = (teacher.sigmoid() - student.sigmoid()).square()
    return divergence * (distance + SMOOTHING).pow(gamma / 2)


@MODELS.register_module()
class FocalKLLoss(WeightedLoss):
    """:func:`focal_kl_loss` with a weight and a reduction, called as MMDetection's losses are.

    Args:
        gamma: Focusing exponent.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the result.

    Example:
        >>> import torch
        >>> from lad.losses import FocalKLLoss
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> FocalKLLoss(gamma=0.0)(student, teacher)
        tensor(0.0555)
    """

    def __init__(self, gamma: float = 0.5, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        check_numbers("FocalKLLoss", minimum=0, gamma=gamma)
        self.gamma = gamma

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of each logit of the student and the teacher, in their shape."""
        return focal_kl_loss(pred, target, self.gamma)
