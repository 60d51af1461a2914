"""What the registered modules of all losses share."""

from __future__ import annotations

from lad.errors import ConfigError

from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn

REDUCTIONS = ("none", "mean", "sum")


class WeightedLoss(nn.Module):
    """A loss with a weight and a reduction, called as MMDetection's losses are.

    A subclass says what its :meth:`elements` are; one that needs more than two tensors, its own ``forward``.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the result.

    Raises:
        ConfigError: the reduction is another.
    """

    #: Classifiers of which it compares (n, C) logits, with a weight for each sample: ``'sigmoid'``, ``'softmax'``.
    logit_forms: frozenset[str] = frozenset()
    #: The methods that it is made for, where it is no loss of two features of one shape.
    made_for: str = ""

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ConfigError(
                f"{type(self).__name__}: reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}."
            )
        self.reduction = reduction
        self.loss_weight = loss_weight

    def check_positive(self, **settings: float) -> None:
        """Refuse settings, such as a temperature, that are not above 0.

        Raises:
            ConfigError: one is not; the message names it.
        """
        for name, value in settings.items():
            if not value > 0:
                raise ConfigError(f"{type(self).__name__}: {name} must be positive, got {value!r}.")

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss before its reduction, of what the student and the teacher (or the labels) say."""
        raise NotImplementedError

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The reduced loss; ``weight`` broadcasts with :meth:`elements`."""
        return self.reduced(self.elements(pred, target), weight, avg_factor, reduction_override)

    def reduced(
        self,
        loss: Tensor,
        weight: Tensor | None,
        avg_factor: float | Tensor | None,
        reduction_override: str | None,
    ) -> Tensor:
        """The weighted reduction of element-wise losses; ``weight`` broadcasts with them."""
        reduction = reduction_override or self.reduction
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor)
