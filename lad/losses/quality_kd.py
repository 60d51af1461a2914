"""Quality focal loss with a teacher's probabilities for the qualities."""

from __future__ import annotations

from typing import Any

from lad.losses.binary_logits import BinaryLogits
from lad.losses.weighted import WeightedLoss

import torch
from mmdet.registry import MODELS
from torch import Tensor
from torch.autograd.function import once_differentiable


class _QualityKD(torch.autograd.Function):
    """The loss with its derivative in closed form: one tensor for the backward pass instead of eight operations."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, own: BinaryLogits, target: Tensor, beta: float) -> Tensor:
        difference = own.probabilities - target
        distance = difference.abs()
        entropy = torch.addcmul(own.softplus, target, logits, value=-1)
        factor = distance if beta == 1 else distance.pow(beta)
        if ctx.needs_input_grad[0]:
            # beta |d|^(beta - 1) sign(d) p (1 - p) entropy + |d|^beta d, as the derivative of the entropy is d.
            outer = difference.sign() if beta == 1 else beta * distance.pow(beta - 1) * difference.sign()
            ctx.save_for_backward(outer.mul_(own.slope).mul_(entropy).addcmul_(factor, difference))
        return entropy.mul_(factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (derivative,) = ctx.saved_tensors
        return gradient * derivative, None, None, None


def quality_kd_loss(
    student: Tensor | BinaryLogits, teacher: Tensor | BinaryLogits, beta: float = 1.0
) -> Tensor:
    """Binary cross-entropy with the teacher's probabilities, weighted by how far apart the two are.

    With p = sigmoid(logit):  -|p_t - p_s|^beta (p_t log p_s + (1 - p_t) log(1 - p_s)). The quality focal loss of Li et
    al., "Generalized Focal Loss", NeurIPS 2020, arXiv 2006.04388, Eq. 5, as Wang et al., "CrossKD: Cross-Head Knowledge
    Distillation for Object Detection", CVPR 2024, arXiv 2306.11369, take it to classification; theirs has a beta of 1.
    The gradient flows through the distance too, as in MMDetection's ``QualityFocalLoss`` (with a tensor for its
    target), whose values these are.

    Args:
        student: Logits of any shape and float dtype, or what :meth:`BinaryLogits.of` computes of them.
        teacher: Logits of the same shape, or likewise; no gradient flows to them.
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
    own = BinaryLogits.of(student)
    if isinstance(teacher, BinaryLogits):
        target = teacher.probabilities
    else:
        target = teacher.detach().to(own.logits.dtype).sigmoid()
    if own.logits.shape != target.shape:
        raise ValueError(
            f"logits of shape {tuple(own.logits.shape)} (student) and {tuple(target.shape)} (teacher)"
        )
    return _QualityKD.apply(own.logits, own, target, beta)


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
    #: What it computes of one network's logits alone; its arguments may be that in the place of logits.
    prepare = staticmethod(BinaryLogits.of)

    def __init__(self, beta: float = 1.0, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        if beta < 1:
            raise ValueError(f"beta must be at least 1, got {beta}")
        self.beta = beta

    def elements(self, pred: Tensor | BinaryLogits, target: Tensor | BinaryLogits) -> Tensor:
        """(n,) the loss of each sample, of the (n, C) logits of student and teacher."""
        return quality_kd_loss(pred, target, self.beta).sum(dim=-1)
