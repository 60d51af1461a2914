"""What the registered modules of all losses share."""

from __future__ import annotations

from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn


class WeightedLoss(nn.Module):
    """A loss with a weight and a reduction, called as MMDetection's losses are.

    A subclass says what its :meth:`elements` are; one that needs more than two tensors, its own ``forward``.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the result.
    """

    #: Classifiers of which it compares (n, C) logits, with a weight for each sample: ``'sigmoid'``, ``'softmax'``.
    logit_forms: frozenset[str] = frozenset()

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__()
        self.reduction = reduction
        self.loss_weight = loss_weight

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
