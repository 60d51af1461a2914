"""Decoupled knowledge distillation: target class and other classes with a weight each."""

from __future__ import annotations

from lad.base.settings import check_numbers
from lad.losses.knowledge_distillation import binary_kl_divergence
from lad.losses.logits import limit_logits, soften_logits
from lad.losses.weighted import WeightedLoss

import torch
from mmdet.registry import MODELS
from torch import Tensor


def decoupled_kd_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float | Tensor = 1.0,
    beta: float | Tensor = 0.25,
    temperature: float = 1.0,
) -> Tensor:
    """DKD of softmax classifiers:  T^2 (alpha TCKD + beta NCKD).

    With the target class y, P = softmax(logits / T), b = (P(y), 1 - P(y)) and Q the distribution of the other classes
    among themselves, Q(c) = P(c) / (1 - P(y)):  TCKD = KL(b_t || b_s),  NCKD = KL(Q_t || Q_s). Zhao et al., "Decoupled
    Knowledge Distillation", CVPR 2022, arXiv 2203.08679, Eqs. 5 to 7. Plain distillation is TCKD + (1 - P_t(y)) NCKD:
    where a teacher is certain of the target the other classes have no weight, which DKD corrects by a beta of its own.
    The defaults are those of the authors' Faster R-CNN; they took a beta of 8 and a T of 4 for CIFAR-100.

    Args:
        student: (n, C) logits of any float dtype, C of at least 2; a background class is a class.
        teacher: (n, C) logits; no gradient flows to them.
        labels: (n,) int64 target classes. Everything outside [0, C) is no class: such a sample has no target to take
            apart, and costs nothing. That is the background where its classifier has no channel for it.
        alpha: Weight of TCKD; a number, or one for each sample.
        beta: Weight of NCKD; likewise.
        temperature: T, above 0.

    Returns:
        (n,) float32, the loss of each sample; 0 where the two agree and where there is no target.

    Raises:
        ValueError: the shapes do not fit, there is a single class, or the temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses import decoupled_kd_loss
        >>> student, teacher = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
        >>> decoupled_kd_loss(student, teacher, torch.tensor([0]))
        tensor([0.3433])
    """
    _check_labels(student, labels)
    student, teacher = soften_logits(student, teacher, temperature)
    if student.shape[1] < 2:
        raise ValueError(
            "DKD of softmax classifiers needs 2 classes: with one there is nothing beside the target"
        )
    target = labels.unsqueeze(1) == torch.arange(student.shape[1], device=labels.device)
    has_target = target.any(dim=1)
    # Before the arithmetic, not after it: 0 times the NaN of a sample without target is NaN in the backward pass.
    student, teacher = (logits.masked_fill(~has_target[:, None], 0) for logits in (student, teacher))
    target_s, others_s, among_s = _parts(student, target)
    target_t, others_t, among_t = _parts(limit_logits(teacher), target)
    tckd = target_t.exp() * (target_t - target_s) + others_t.exp() * (others_t - others_s)
    # The target's place holds 0 in both: it is to add nothing, not 0 times infinity.
    nckd = (among_t.exp() * (among_t - among_s)).masked_fill(target, 0).sum(dim=1)
    loss = temperature**2 * (alpha * tckd + beta * nckd)
    return loss.masked_fill(~has_target, 0)


def _parts(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log P(y), log(1 - P(y)), both (n,), and log Q, (n, C) with 0 at the target."""
    total = logits.logsumexp(dim=1)
    of_target = logits.masked_fill(~target, 0).sum(dim=1)
    without = logits.masked_fill(target, -torch.inf)
    of_others = without.logsumexp(dim=1)
    # Of a target that is all but certain the remainder is left by no rounding: it is a sum of its own.
    return of_target - total, of_others - total, (logits - of_others.unsqueeze(1)).masked_fill(target, 0)


def binary_decoupled_kd_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float | Tensor = 1.0,
    beta: float | Tensor = 0.25,
    temperature: float = 1.0,
) -> Tensor:
    """DKD of sigmoid classifiers:  T^2 (alpha KL_y + beta sum_{c != y} KL_c), KL_c the binary divergence of class c.

    Ours; the paper has softmax classifiers alone. It is the same step taken: the paper splits KL by the chain rule into
    the question "is it the target?" and, weighted by the probability that it is not, "which other class?". A sigmoid
    head predicts each class by itself, so that the joint distribution of all classes is a product, and
    KL = KL_y + sum_{c != y} KL_c: the other classes do not depend on the target's, and their weight in plain
    distillation is 1 where it is 1 - P_t(y) for softmax. With alpha = beta = 1 it is the plain binary form. A sample
    without a target (background) has other classes only.

    Args:
        student: (n, C) logits of any float dtype.
        teacher: (n, C) logits; no gradient flows to them.
        labels: (n,) int64 target classes; everything outside [0, C) is background.
        alpha: Weight of the target class; a number, or one for each sample.
        beta: Weight of the others; likewise.
        temperature: T, above 0.

    Returns:
        (n,) float32, the loss of each sample.

    Raises:
        ValueError: the shapes do not fit, or the temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses import binary_decoupled_kd_loss
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> binary_decoupled_kd_loss(student, teacher, torch.tensor([1]))
        tensor([0.1109])
    """
    _check_labels(student, labels)
    divergence = binary_kl_divergence(student, teacher, temperature)
    target = labels.unsqueeze(1) == torch.arange(student.shape[1], device=labels.device)
    return alpha * (divergence * target).sum(dim=1) + beta * (divergence * ~target).sum(dim=1)


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"need (n, C) logits and (n,) labels, got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )


@MODELS.register_module()
class DKDLoss(WeightedLoss):
    """:func:`decoupled_kd_loss` with a weight and a reduction.

    Args:
        use_sigmoid: Each channel is a binary classifier (:func:`binary_decoupled_kd_loss`); otherwise softmax, which
            needs a target: on a sigmoid head it is the loss of the positives alone.
        alpha: Weight of the target class.
        beta: Weight of the other classes.
        temperature: T.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``, of samples.
        loss_weight: Factor of the result.

    Example:
        >>> import torch
        >>> from lad.losses import DKDLoss
        >>> student, teacher = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
        >>> DKDLoss(beta=8.0, temperature=4.0)(student, teacher, torch.tensor([0]))
        tensor(1.2674)
    """

    #: Whether it is to be called with the target classes too.
    needs_labels = True
    logit_forms = frozenset({"sigmoid", "softmax"})
    made_for = "DenseLogitDistillation or RoILogitDistillation"

    def __init__(
        self,
        use_sigmoid: bool = False,
        alpha: float = 1.0,
        beta: float = 0.25,
        temperature: float = 1.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(reduction, loss_weight)
        check_numbers(type(self).__name__, minimum=0, alpha=alpha, beta=beta)
        check_numbers(type(self).__name__, above=0, temperature=temperature)
        self.use_sigmoid = use_sigmoid
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def forward(  # type: ignore[override]  # needs the labels too
        self,
        pred: Tensor,
        target: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The reduced loss of (n, C) logits ``pred`` (student) and ``target`` (teacher); the others are (n,)."""
        function = binary_decoupled_kd_loss if self.use_sigmoid else decoupled_kd_loss
        loss = function(pred, target, labels, self.alpha, self.beta, self.temperature)
        return self.reduced(loss, weight, avg_factor, reduction_override)
