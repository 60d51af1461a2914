"""Checks and casts that the losses of logits share."""

from __future__ import annotations

from lad.losses.precision import upcast_pair

import torch
import torch.nn.functional as F
from torch import Tensor

#: A difference of logits from which on float32's probability ratio is 0.
CERTAIN = 104.0
#: Logits of at least this size are taken for infinite by :func:`limit_logits`.
HUGE = 1e30


def check_logits(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> None:
    """Refuse logits of two shapes, and a temperature that is not above 0.

    Raises:
        ValueError: as said.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"logits of shape {tuple(student.shape)} (student) and {tuple(teacher.shape)} (teacher)"
        )
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def soften_logits(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Divide logits of student and teacher by the temperature.

    The teacher's infinite logits become the largest finite ones that can be subtracted from each other, at which the
    losses have their limit: 0 times the logarithm of a probability of 0 is 0, not NaN.

    Args:
        student: Logits of any shape and float dtype.
        teacher: Logits of the same shape; detached.
        temperature: T, above 0.

    Returns:
        Both in float32, or float64 where the student's are.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses.logits import soften_logits
        >>> student, teacher = soften_logits(torch.tensor([2.0]), torch.tensor([float("inf")]), temperature=4.0)
        >>> student.item(), teacher.isfinite().item()
        (0.5, True)
    """
    check_logits(student, teacher, temperature)
    student, teacher = upcast_pair(student, teacher)
    bound = torch.finfo(teacher.dtype).max / 4
    if temperature != 1:
        student, teacher = student / temperature, teacher / temperature
    return student, teacher.clamp(-bound, bound)


def softplus(logits: Tensor) -> Tensor:
    """log(1 + exp(logit)) = -log(1 - sigmoid(logit)), to the last digit of float64 too.

    On a CPU a third of the time of ``logsigmoid``.

    Example:
        >>> import torch
        >>> from lad.losses.logits import softplus
        >>> softplus(torch.zeros(1))
        tensor([0.6931])
    """
    # PyTorch's threshold of 20 is one for float32; beyond 40 it is the logit itself in float64 too.
    return F.softplus(logits, threshold=40)


def limit_logits(logits: Tensor) -> Tensor:
    """Replace huge logits of a softmax by ones just large enough for probabilities of 0 and 1.

    The logarithm of the number of classes that share an infinite logit is not lost to rounding there.

    Args:
        logits: (n, C) float32 or float64, finite.

    Returns:
        (n, C); rows with logits below :data:`HUGE` alone stay as they are, the largest of the others is 0.

    Example:
        >>> import torch
        >>> from lad.losses.logits import limit_logits
        >>> limit_logits(torch.tensor([[1e38, 1.0, -2.0]])).tolist()
        [[0.0, -105.0, -108.0]]
    """
    size = logits.abs()
    huge = size >= HUGE
    bound = size.masked_fill(huge, 0).amax(dim=1, keepdim=True) + CERTAIN
    limited = torch.where(huge, logits.sign() * bound, logits)
    # Of the classes that share the largest logit, the exponentials then are exactly 1.
    top = limited.amax(dim=1, keepdim=True)
    return torch.where(huge.any(dim=1, keepdim=True), limited - top, logits)
