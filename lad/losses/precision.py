"""Floating-point precision that losses are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(tensor: Tensor) -> Tensor:
    """Cast a tensor to float32, unless it is float64.

    Sums and squares of half precision overflow or lose digits. float64 stays, as ``torch.autograd.gradcheck`` needs it.

    Args:
        tensor: Any shape and dtype.

    Returns:
        float64 for float64, else float32, in the shape of ``tensor``.

    Example:
        >>> import torch
        >>> from lad.losses.precision import upcast
        >>> [upcast(torch.ones(1, dtype=dtype)).dtype for dtype in (torch.bfloat16, torch.float64)]
        [torch.float32, torch.float64]
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def upcast_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Cast a student's tensor with :func:`upcast`, and the teacher's, detached, to the same dtype."""
    student = upcast(student)
    return student, teacher.detach().to(student.dtype)
