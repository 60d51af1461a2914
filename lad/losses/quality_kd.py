"""Quality focal loss with a teacher's probabilities for the qualities."""

from __future__ import annotations

from functools import partial

from lad.base.settings import check_numbers
from lad.losses.binary_logits import BinaryLogits
from lad.losses.closed_form import Terms, element_losses, row_losses
from lad.losses.precision import upcast
from lad.losses.weighted import WeightedLoss

import torch
from mmdet.registry import MODELS
from torch import Tensor


def _terms(
    student: Tensor | BinaryLogits, teacher: Tensor | BinaryLogits, derivative: Tensor, beta: float
) -> Tensor:
    """The loss of each element; its derivative is written."""
    own = BinaryLogits.of(student)
    # What is computed here of this block is overwritten: with a tensor less for each result it fits a CPU's cache.
    entropy_memory = None if own is student else own.softplus
    if isinstance(teacher, BinaryLogits):
        target, difference_memory = teacher.probabilities, None
    else:
        target = difference_memory = teacher.to(own.logits.dtype).sigmoid()
    entropy = torch.addcmul(own.softplus, target, own.logits, value=-1, out=entropy_memory)
    difference = torch.sub(own.probabilities, target, out=difference_memory)
    # beta |d|^(beta - 1) sign(d) p (1 - p) entropy + |d|^beta d, as the derivative of the entropy is d; of beta = 1 it
    # is sign(d) (p (1 - p) entropy + d^2).
    torch.mul(own.slope, entropy, out=derivative)
    if beta == 1:
        derivative.addcmul_(difference, difference)
        entropy.mul_(difference).abs_()
    else:
        distance = difference.abs()
        power = distance.pow(beta - 1)
        derivative.mul_(beta).addcmul_(distance, distance).mul_(power)
        entropy.mul_(distance.mul_(power))
    derivative.mul_(difference.sign_())
    return entropy


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
    return element_losses(*_checked(student, teacher, beta))


def _checked(
    student: Tensor | BinaryLogits, teacher: Tensor | BinaryLogits, beta: float
) -> tuple[Terms, Tensor | BinaryLogits, Tensor | BinaryLogits]:
    """What the losses are computed of; see :func:`quality_kd_loss`."""
    if beta < 1:
        raise ValueError(f"beta must be at least 1, got {beta}")
    if student.shape != teacher.shape:
        raise ValueError(
            f"logits of shape {tuple(student.shape)} (student) and {tuple(teacher.shape)} (teacher)"
        )
    student = student if isinstance(student, BinaryLogits) else upcast(student)
    teacher = teacher if isinstance(teacher, BinaryLogits) else teacher.detach()
    return partial(_terms, beta=beta), student, teacher


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
    any_shape = True
    made_for = "CrossHeadDistillation or DenseLogitDistillation"
    #: What it computes of one network's logits alone; its arguments may be that in the place of logits.
    prepare = staticmethod(BinaryLogits.of)

    def __init__(self, beta: float = 1.0, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        check_numbers(type(self).__name__, minimum=1, beta=beta)
        self.beta = beta

    def elements(self, pred: Tensor | BinaryLogits, target: Tensor | BinaryLogits) -> Tensor:
        """(...) the loss of each sample, of the (n, C) logits of student and teacher."""
        return row_losses(*_checked(pred, target, self.beta))
