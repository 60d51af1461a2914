"""Not-true distillation loss: KL divergence of class distributions without the true class."""

from __future__ import annotations

from lad.losses.knowledge_distillation import binary_kl_divergence
from lad.losses.logits import soften_logits

import torch
from torch import Tensor


def not_true_divergence(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergence of two softened softmax classifiers over the classes that are not the true one.

    With l and g the logits of student and teacher without channel y, and P = softmax(. / T):

        T^2 sum over c != y of P_g(c) log(P_g(c) / P_l(c)).

    Lee et al., "Preservation of the Global Knowledge by Not-True Distillation in Federated Learning", NeurIPS 2022,
    arXiv 2106.03097, Eq. 5 and 6: what a client does not know of is taught by the global model, and its true class by
    its labels alone. Computed from logits in float32.

    Args:
        student: (n, C) logits of any float dtype.
        teacher: (n, C) logits; no gradient flows to them.
        labels: (n,) int64, the true class of each sample. Where it is outside [0, C) there is none: the divergence is
            that of all classes.
        temperature: T, above 0.

    Returns:
        (n,), float32; 0 for two classes, of which one is left.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses import not_true_divergence
        >>> student, teacher = torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
        >>> not_true_divergence(student, teacher, torch.tensor([0]))
        tensor([0.1109])
    """
    student, teacher = soften_logits(student, teacher, temperature)
    is_true = _is_true(student, labels)
    # An excluded logit's probability is exactly 0, and so is its term: 0 times a finite difference.
    log_taught = teacher.masked_fill(is_true, -torch.inf).log_softmax(dim=-1)
    log_own = student.masked_fill(is_true, -torch.inf).log_softmax(dim=-1)
    difference = (log_taught - log_own).masked_fill(is_true, 0)
    return temperature**2 * (log_taught.exp() * difference).sum(dim=-1)


def binary_not_true_divergence(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 1.0
) -> Tensor:
    """:func:`not_true_divergence` of binary (sigmoid) classifiers: the sum over the classes that are not the true one.

    Args:
        student: (n, C) logits of any float dtype.
        teacher: (n, C) logits; no gradient flows to them.
        labels: (n,) int64, the true class of each sample, outside [0, C) where there is none.
        temperature: T, above 0.

    Returns:
        (n,), float32.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses import binary_not_true_divergence
        >>> student, teacher = torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> binary_not_true_divergence(student, teacher, torch.tensor([0]))
        tensor([0.1109])
    """
    divergence = binary_kl_divergence(student, teacher, temperature)
    return divergence.masked_fill(_is_true(divergence, labels), 0).sum(dim=-1)


def _is_true(logits: Tensor, labels: Tensor) -> Tensor:
    """(n, C) bool, True at each sample's true class."""
    return labels[:, None] == torch.arange(logits.shape[1], device=logits.device)
