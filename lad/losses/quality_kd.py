"""Quality focal loss with a teacher's probabilities for the qualities."""

from __future__ import annotations

from lad.losses.logits import soften_logits
from lad.losses.weighted import WeightedLoss

import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor


def quality_kd_loss(student: Tensor, teacher: Tensor, beta: float = 1.0) -> Tensor:
    """Binary cross-entropy with the teacher's probabilities, weighted by how far apart the two are.

    With p = sigmoid(logit):  -|p_t - p_s|^beta (p_t log p_s + (1 - p_t) log(1 - p_s)). The quality focal loss of Li et
    al., "Generalized Focal Loss", NeurIPS 2020, arXiv 2006.04388, Eq. 5, as Wang et al., "CrossKD: Cross-Head Knowledge
    Distillation for Object Detection", CVPR 2024, arXiv 2306.11369, take it to classification; theirs has a beta of 1.
    The gradient flows through the distance too, as in MMDetection's ``QualityFocalLoss`` (with a tensor for its
    target), whose values these are.

    Args:
        student: Logits of any shape and float dtype.
        teacher: Logits of the same shape; no gradient flows to them.
        beta: Focusing exponent, at least 1 (below, the gradient has no bound where the two agree).

    Returns:
        The loss of each element, float32; 0 where the two are equal.

    Raises:
        ValueError: the shapes differ, or beta is below 1.

    Example:
        >>> import torch
        >>> from lad.losses import quality_kd_loss
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> quality_kd_loss(student, teacher)
        tensor([[0.0000, 0.1602]])
    """
    if beta < 1:
        raise ValueError(f"beta must be at least 1, got {beta}")
    student, teacher = soften_logits(student, teacher)
    target = teacher.sigmoid()
    distance = (target - student.sigmoid()).abs()
    entropy = F.softplus(student) - target * student
    return (distance if beta == 1 else distance.pow(beta)) * entropy


@MODELS.register_module()
class QualityKDLoss(WeightedLoss):
    """:func:`quality_kd_loss`, summed over the classes, with a weight and a reduction.

    Args:
        beta: Focusing exponent.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``, of samples.
        loss_weight: Factor of the result.

    Example:
        >>> import torch
        >>> from lad.losses import QualityKDLoss
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> QualityKDLoss()(student, teacher)
        tensor(0.1602)
    """

    logit_forms = frozenset({"sigmoid"})
    made_for = "CrossHeadDistillation or DenseLogitDistillation"

    def __init__(self, beta: float = 1.0, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        if beta < 1:
            raise ValueError(f"beta must be at least 1, got {beta}")
        self.beta = beta

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """(n,) the loss of each sample, of the (n, C) logits of student and teacher."""
        return quality_kd_loss(pred, target, self.beta).sum(dim=-1)
