"""Several teachers of one student: gated scores, contrastive attention over the teachers, and the fused score.

Wang et al., "MulDE: Multi-teacher Knowledge Distillation for Low-dimensional Knowledge Graph Embeddings", WWW 2021,
arXiv 2010.07152. A *query* is answered by scores of K candidates, which are logits: the student's (n, K) of n queries
and M teachers' (n, M, K). A teacher need not know every candidate; whatever is compared is compared on those that it
knows, where the probabilities of both sides are normalised again.
"""

from __future__ import annotations

import math

from lad.losses.logits import soften_logits
from lad.losses.precision import upcast

import torch
from torch import Tensor


def gate_scores(scores: Tensor, gates: Tensor) -> Tensor:
    """Scores of the teachers times their gates:  s'_m = sigmoid(g_m) s_m.

    A gate belongs to a relation, of a detector to a level and a class: how far a teacher is to be trusted there. The
    gradient reaches the gates alone.

    Args:
        scores: Teachers' scores, (n, M, K), of any float dtype; detached.
        gates: Logits g of the gates, (n, M, K) or a shape that broadcasts to it.

    Returns:
        (n, M, K), float32, or float64 where the gates are.

    Example:
        >>> import torch
        >>> from lad.losses import gate_scores
        >>> gate_scores(torch.tensor([[[2.0, -4.0]]]), torch.zeros(1, 1, 1))
        tensor([[[ 1., -2.]]])
    """
    gates = upcast(gates)
    return gates.sigmoid() * scores.detach().to(gates.dtype)


def known_divergence(
    student: Tensor, teacher: Tensor, known: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """KL divergence of the softmax over the candidates that are known:  T^2 sum_k P_t(k) log(P_t(k) / P_s(k)).

    P = softmax(scores / T) over the known candidates alone.

    Args:
        student: (..., K) scores of any float dtype.
        teacher: (..., K) scores; no gradient flows to them.
        known: (..., K) bool; None: all.
        temperature: T, above 0.

    Returns:
        (...), float32, or float64 where the student's scores are; 0 where nothing is known.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses import known_divergence
        >>> student, teacher = torch.tensor([0.0, 0.0, 5.0]), torch.tensor([0.0, 1.0, -5.0])
        >>> known_divergence(student, teacher, torch.tensor([True, True, False]))
        tensor(0.1109)
    """
    log_own, log_taught = (
        _log_softmax(scores, known) for scores in soften_logits(student, teacher, temperature)
    )
    terms = log_taught.exp() * (log_taught - log_own)
    if known is not None:
        terms = terms.masked_fill(~known, 0)
    return temperature**2 * terms.sum(dim=-1)


def _log_softmax(scores: Tensor, known: Tensor | None) -> Tensor:
    if known is not None:
        # Finite, and less than any score that `soften_logits` returns: rows without a known candidate have no NaN.
        scores = scores.masked_fill(~known, torch.finfo(scores.dtype).min / 2)
    return scores.log_softmax(dim=-1)


@torch.no_grad()
def contrastive_attention(
    student: Tensor, teachers: Tensor, temperature: float = 1.0, known: Tensor | None = None
) -> Tensor:
    """Weights of the teachers: more for those whose answer to a query is nearer to the student's.

    w = softmax over the teachers of -KL(softmax(student) || softmax(teacher m)) / temperature; at each candidate over
    those that know it. The paper: what is too far from the student's answer is too hard for it. A constant: in the
    authors' code the student also gets a gradient from its weights.

    Args:
        student: (n, K) scores.
        teachers: (n, M, K) gated scores.
        temperature: Above 0; large values make it a plain mean. See :func:`attention_temperature`.
        known: (n, M, K) bool, whether a teacher knows a candidate; None: each knows all.

    Returns:
        (n, M, K) weights in the teachers' precision; their sum over the teachers is 1 at each candidate that one of
        them knows, and 0 at the others.

    Raises:
        ValueError: the temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses import contrastive_attention
        >>> student = torch.tensor([[0.0, 0.0]])
        >>> contrastive_attention(student, torch.tensor([[[0.0, 0.0], [0.0, 9.0]]]))[0, :, 0]
        tensor([0.9783, 0.0217])
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    student = student[:, None].expand_as(teachers).to(teachers.dtype)
    # The student's distribution comes first: its probabilities weigh the logarithms.
    closeness = -known_divergence(teachers, student, known) / temperature
    closeness = closeness[..., None].expand_as(teachers)
    if known is None:
        return closeness.softmax(dim=1)
    weights = closeness.masked_fill(~known, -torch.inf).softmax(dim=1)
    return weights.masked_fill(~known, 0)


def fuse_scores(teachers: Tensor, weights: Tensor) -> Tensor:
    """The teachers' scores as one:  s = sum over m of w_m s'_m.

    Args:
        teachers: (n, M, K) gated scores.
        weights: (n, M, K) of :func:`contrastive_attention`, 0 where a teacher does not know a candidate.

    Returns:
        (n, K).

    Example:
        >>> import torch
        >>> from lad.losses import fuse_scores
        >>> fuse_scores(torch.tensor([[[2.0], [4.0]]]), torch.tensor([[[0.25], [0.75]]]))
        tensor([[3.5000]])
    """
    return (weights * teachers).sum(dim=1)


def attention_temperature(epoch: int, every: int = 5, maximum: float | None = None) -> float:
    """Temperature of the attention:  e^floor(epoch / every), at most ``maximum``.

    The authors' code has no bound: by epoch 20 the temperature is 55, and the attention is a plain mean.

    Args:
        epoch: Number of the epoch, from 0.
        every: Epochs of one value.
        maximum: The largest value; None: none.

    Example:
        >>> from lad.losses import attention_temperature
        >>> tuple(round(attention_temperature(epoch, maximum=4.0), 2) for epoch in (4, 5, 10, 15))
        (1.0, 2.72, 4.0, 4.0)
    """
    # Beyond, the exponential is no float; weights are equal long before.
    temperature = math.exp(min(epoch // every, 700))
    return temperature if maximum is None else min(temperature, maximum)
