"""Knowledge distillation loss: KL divergence of softened class distributions."""

from __future__ import annotations

import math
from functools import partial

from lad.base.settings import check_numbers
from lad.losses.closed_form import Terms, element_losses, row_losses
from lad.losses.logits import check_logits, soften_logits, softplus
from lad.losses.precision import upcast_pair
from lad.losses.weighted import WeightedLoss

import torch
from mmdet.registry import MODELS
from torch import Tensor


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergence of two softened softmax classifiers:  T^2 sum_c P_t(c) log(P_t(c) / P_s(c)).

    P = softmax(logits / T). Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531,
    Sec. 2: the factor T^2 keeps the size of the gradients when T changes. The paper's cross-entropy differs from it by
    the teacher's entropy, which has no gradient; this one is 0 where the two agree. Computed from logits in float32.

    Args:
        student: (..., C) logits of any float dtype.
        teacher: (..., C) logits; no gradient flows to them.
        temperature: T, above 0.

    Returns:
        (...), float32.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses import kl_divergence
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> kl_divergence(student, teacher)
        tensor([0.1109])
    """
    student, teacher = soften_logits(student, teacher, temperature)
    log_taught = teacher.log_softmax(dim=-1)
    log_own = student.log_softmax(dim=-1)
    return temperature**2 * (log_taught.exp() * (log_taught - log_own)).sum(dim=-1)


def _binary_terms(student: Tensor, teacher: Tensor, derivative: Tensor, temperature: float) -> Tensor:
    """The divergence of each classifier; its derivative, T (p_s - p_t), is written."""
    # Not soften_logits: `_checked` has checked and cast them, and the bound below is the tighter one.
    if temperature != 1:
        student, teacher = student / temperature, teacher / temperature
    # Beyond, a probability is 0 or 1 and the result does not depend on the logit, whose size would cost digits.
    bound = -math.log(torch.finfo(teacher.dtype).tiny)
    teacher = teacher.clamp(-bound, bound)
    taught = teacher.sigmoid()
    # p_t (log p_t - log p_s) + (1 - p_t) (log(1 - p_t) - log(1 - p_s)) with log p = logit + log(1 - p): two logarithms
    # fewer, no logarithm of 0, and exactly 0 for equal logits.
    divergence = (teacher - student).mul_(taught).sub_(softplus(teacher)).add_(softplus(student))
    torch.sigmoid(student, out=derivative).sub_(taught).mul_(temperature)
    return divergence.mul_(temperature**2)


def binary_kl_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """:func:`kl_divergence` of binary (sigmoid) classifiers, each by itself.

    With p = sigmoid(logit / T):  T^2 (p_t log(p_t / p_s) + (1 - p_t) log((1 - p_t) / (1 - p_s))). It equals
    :func:`kl_divergence` of the two logits (z, 0).

    Args:
        student: Logits of any shape and float dtype.
        teacher: Logits of the same shape; no gradient flows to them.
        temperature: T, above 0.

    Returns:
        The divergence of each classifier, float32, in the shape of the logits; exactly 0 where the two are equal.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses import binary_kl_divergence
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> binary_kl_divergence(student, teacher)
        tensor([[0.0000, 0.1109]])
    """
    return element_losses(*_checked(student, teacher, temperature))


def _checked(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Terms, Tensor, Tensor]:
    """What the divergence of binary classifiers is computed of; see :func:`binary_kl_divergence`."""
    check_logits(student, teacher, temperature)
    return partial(_binary_terms, temperature=temperature), *upcast_pair(student, teacher)


@MODELS.register_module()
class KDLoss(WeightedLoss):
    """:func:`kl_divergence` with a weight and a reduction, called as MMDetection's losses are.

    Args:
        use_sigmoid: Each channel is a binary classifier (:func:`binary_kl_divergence`, summed over the channels);
            otherwise softmax over the channels.
        temperature: T.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``, of samples.
        loss_weight: Factor of the result.

    Example:
        >>> import torch
        >>> from lad.losses import KDLoss
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> KDLoss(temperature=2.0)(student, teacher)
        tensor(0.1212)
        >>> KDLoss(use_sigmoid=True)(student, teacher)
        tensor(0.1109)
    """

    logit_forms = frozenset({"sigmoid", "softmax"})
    any_shape = True
    made_for = "DenseLogitDistillation or RoILogitDistillation"

    def __init__(
        self,
        use_sigmoid: bool = False,
        temperature: float = 1.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(reduction, loss_weight)
        self.use_sigmoid = use_sigmoid
        check_numbers(type(self).__name__, above=0, temperature=temperature)
        self.temperature = temperature

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """(...) the loss of each sample."""
        if self.use_sigmoid:
            return row_losses(*_checked(pred, target, self.temperature))
        return kl_divergence(pred, target, self.temperature)
