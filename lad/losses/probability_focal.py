"""Focal loss of probabilities, for heads that put out probabilities instead of logits."""

from __future__ import annotations

from lad.base.settings import check_numbers
from lad.losses.precision import upcast
from lad.losses.weighted import WeightedLoss

import torch
from mmdet.registry import MODELS
from torch import Tensor


def probability_focal_loss(prob: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Focal loss of binary predictions that are given as probabilities.

    With q = p for the target class and 1 - p for the others:  -a (1 - q)^gamma log(q),  where a is ``alpha`` for the
    target class and 1 - alpha for the others: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv
    1708.02002, Eq. 5. For p = sigmoid(logit) it is MMDetection's ``FocalLoss`` of the logit.

    Computed in float32. q is held between the machine epsilon (of float32; of float16 for float16 predictions) and one
    minus it, for the value alone: the gradient of an exactly wrong prediction still points to the right one, and is
    about a / epsilon, which fits the dtype of the predictions.

    Args:
        prob: (N, C) probabilities, any float dtype.
        target: (N,) int64 labels; everything outside [0, C) is background.
        gamma: Focusing exponent, at least 0.
        alpha: Weight of the target class, in [0, 1].

    Returns:
        (N, C) float32 loss of each element.

    Raises:
        ValueError: the shapes do not fit, or gamma is negative.

    Example:
        >>> import torch
        >>> from lad.losses import probability_focal_loss
        >>> probability_focal_loss(torch.tensor([[0.25, 0.25]]), torch.tensor([0]))
        tensor([[0.1949, 0.0135]])
    """
    if prob.dim() != 2 or target.shape != prob.shape[:1]:
        raise ValueError(
            f"need (N, C) probabilities and (N,) labels, got {tuple(prob.shape)} and {tuple(target.shape)}"
        )
    if gamma < 0:
        raise ValueError(f"gamma must not be negative, got {gamma}")
    eps = torch.finfo(torch.float16 if prob.dtype == torch.float16 else torch.float32).eps
    # Not one_hot, which has a column for the background and on a CPU reads the labels first.
    hit = target.unsqueeze(1) == torch.arange(prob.shape[1], device=target.device)
    prob = upcast(prob)
    right = torch.where(hit, prob, 1 - prob)
    right = right + (right.detach().clamp(eps, 1 - eps) - right.detach())
    weight = torch.where(hit, alpha, 1 - alpha)
    return -weight * (1 - right).pow(gamma) * right.log()


@MODELS.register_module()
class ProbabilityFocalLoss(WeightedLoss):
    """:func:`probability_focal_loss` with a weight and a reduction, in the place of MMDetection's ``FocalLoss``.

    Unlike ``FocalLoss(activated=True)`` it runs under CUDA's autocast, where PyTorch refuses binary cross entropy of
    probabilities, and its gradient fits half precision at 0 and 1.

    Args:
        use_sigmoid: Must be True: each class is a prediction of its own. MMDetection's heads read it from the config.
        gamma: Focusing exponent.
        alpha: Weight of the target class.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the result.

    Example:
        >>> import torch
        >>> from lad.losses import ProbabilityFocalLoss
        >>> ProbabilityFocalLoss()(torch.tensor([[0.25, 0.25]]), torch.tensor([0]), avg_factor=1.0)
        tensor(0.2084)
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        gamma: float = 2.0,
        alpha: float = 0.25,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(reduction, loss_weight)
        if not use_sigmoid:
            raise ValueError("ProbabilityFocalLoss: use_sigmoid must be True, each class is predicted alone")
        check_numbers(type(self).__name__, minimum=0, gamma=gamma)
        check_numbers(type(self).__name__, minimum=0, maximum=1, alpha=alpha)
        self.use_sigmoid = use_sigmoid
        self.gamma = gamma
        self.alpha = alpha

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N, C) the loss of each probability, of labels (N,) with background C."""
        return probability_focal_loss(pred, target, self.gamma, self.alpha)

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The reduced loss of probabilities (N, C) for labels (N,) with background C; ``weight`` is (N,) or (N, C)."""
        if weight is not None and weight.dim() == 1:
            weight = weight.unsqueeze(1)
        return super().forward(pred, target, weight, avg_factor, reduction_override)
