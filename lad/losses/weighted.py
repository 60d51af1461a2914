"""Base class of the registered loss modules."""

from __future__ import annotations

from lad.base.settings import check_numbers
from lad.errors import ConfigError

from mmdet.models.losses.utils import weight_reduce_loss
from torch import Size, Tensor, nn

REDUCTIONS = ("none", "mean", "sum")


def _expands(shape: Size, target: Size) -> bool:
    """Whether a tensor of this shape expands to the target without new dimensions; a scalar always does."""
    if len(shape) != len(target):
        return not shape
    return all(size in (1, wanted) for size, wanted in zip(shape, target, strict=True))


class WeightedLoss(nn.Module):
    """Base class of losses with a weight and a reduction, called as MMDetection's losses are.

    A subclass implements :meth:`elements`, or ``forward`` if it needs more than two tensors.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the result.

    Raises:
        ConfigError: the reduction is another.
    """

    #: Classifiers of which it compares (n, C) logits, with a weight for each sample: ``'sigmoid'``, ``'softmax'``.
    logit_forms: frozenset[str] = frozenset()
    #: Whether it also compares (..., C) logits, with weights (...).
    any_shape: bool = False
    #: The methods that it is made for, where it is no loss of two features of one shape.
    made_for: str = ""

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ConfigError(
                f"{type(self).__name__}: reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}."
            )
        check_numbers(type(self).__name__, minimum=0, loss_weight=loss_weight)
        self.reduction = reduction
        self.loss_weight = loss_weight

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss before its reduction, of the student's predictions and the teacher's (or labels)."""
        raise NotImplementedError

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The reduced loss; ``weight`` has as many dimensions as :meth:`elements`, or none."""
        return self.reduced(self.elements(pred, target), weight, avg_factor, reduction_override)

    def reduced(
        self,
        loss: Tensor,
        weight: Tensor | None,
        avg_factor: float | Tensor | None,
        reduction_override: str | None,
    ) -> Tensor:
        """Weight and reduce element-wise losses; the mean of no element is 0.

        Args:
            loss: The element-wise losses.
            weight: A scalar, or a tensor with as many dimensions as ``loss`` that expands to its shape.
            avg_factor: What the sum is divided by in the place of the number of elements; for ``'mean'`` alone.
            reduction_override: Another reduction for this call.

        Returns:
            The reduced loss times ``loss_weight``.

        Raises:
            ValueError: the weight is of another shape, so that broadcasting would pair each weight with other elements.
        """
        if weight is not None and not _expands(weight.shape, loss.shape):
            raise ValueError(
                f"{type(self).__name__}: weight of shape {tuple(weight.shape)} does not fit elements of shape "
                f"{tuple(loss.shape)}; give one weight for each element, with size 1 in dimensions that share it."
            )
        reduction = reduction_override or self.reduction
        if reduction == "mean" and avg_factor is None and not loss.numel():
            reduction = "sum"
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor)
