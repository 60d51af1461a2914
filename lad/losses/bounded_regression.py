"""Teacher-bounded regression loss."""

from __future__ import annotations

from lad.base.settings import check_numbers
from lad.losses.precision import upcast_pair
from lad.losses.weighted import WeightedLoss

import torch
from mmdet.registry import MODELS
from torch import Tensor


def bounded_regression_loss(student: Tensor, teacher: Tensor, target: Tensor, margin: float = 0.0) -> Tensor:
    """Squared error of the student where it is not better than the teacher by the margin, else 0.

    L_b = ||R_s - y||^2 where ||R_s - y||^2 + m > ||R_t - y||^2, else 0: the teacher's box is no target, because it
    may lie on the wrong side of the truth, but a bound on how good the student must become. Chen et al., "Learning
    Efficient Object Detection Models with Knowledge Distillation", NIPS 2017, Eq. 4.

    Args:
        student: (n, 4) box deltas R_s of any float dtype.
        teacher: (n, 4) box deltas R_t in the same units; no gradient flows to them.
        target: (n, 4) box deltas y of the ground truth.
        margin: m, in squared units of the deltas.

    Returns:
        (n,) float32, the loss of each box, summed over its four deltas as MMDetection's box losses are.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> from lad.losses import bounded_regression_loss
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0, 0.0]])
        >>> bounded_regression_loss(student, teacher, torch.zeros(1, 4))
        tensor([5.])
        >>> bounded_regression_loss(teacher, student, torch.zeros(1, 4))
        tensor([0.])
    """
    if not student.shape == teacher.shape == target.shape:
        shapes = [tuple(tensor.shape) for tensor in (student, teacher, target)]
        raise ValueError("deltas of shape {} (student), {} (teacher) and {} (target)".format(*shapes))
    student, teacher = upcast_pair(student, teacher)
    target = target.detach().to(student.dtype)
    own = (student - target).square().sum(dim=-1)
    bound = (teacher - target).square().sum(dim=-1)
    loss = own * (own.detach() + margin > bound)
    # A comparison with NaN is false, which would pass for a student that is better.
    return torch.where(bound.isnan(), bound, loss)


@MODELS.register_module()
class BoundedRegressionLoss(WeightedLoss):
    """:func:`bounded_regression_loss` with a weight and a reduction.

    Args:
        margin: m.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the result.

    Example:
        >>> import torch
        >>> from lad.losses import BoundedRegressionLoss
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0, 0.0]])
        >>> BoundedRegressionLoss(loss_weight=0.5)(student, teacher, torch.zeros(1, 4))
        tensor(2.5000)
    """

    def __init__(self, margin: float = 0.0, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        check_numbers(type(self).__name__, minimum=0, margin=margin)
        self.margin = margin

    def forward(  # type: ignore[override]  # needs the ground truth too
        self,
        pred: Tensor,
        teacher: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The reduced loss of (n, 4) deltas; ``weight`` (n,)."""
        loss = bounded_regression_loss(pred, teacher, target, self.margin)
        return self.reduced(loss, weight, avg_factor, reduction_override)
