"""Losses of logits whose derivative is known in closed form: one tensor for the backward pass, computed in blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lad.losses.binary_logits import BinaryLogits

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Takes logits of student and teacher of one shape, or what was prepared of them, and memory of that shape; writes the
#: derivative of each element by the student's logit there and gives the loss of each in new memory.
Terms = Callable[[Any, Any, Tensor], Tensor]

#: Elements of a block. A loss of binary classifiers has ten intermediate tensors, each as large as the logits: half a
#: gigabyte for a RetinaNet's eight images of 800x1333 and 80 classes. On a CPU blocks stay in its cache; on other
#: devices they are larger, so that there are few kernels to launch.
CPU_BLOCK, DEVICE_BLOCK = 2**17, 2**22


class _Elements(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, terms: Terms, student: Any, teacher: Any) -> Tensor:
        derivative = torch.empty_like(logits)
        loss = terms(student, teacher, derivative)
        ctx.save_for_backward(derivative)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (derivative,) = ctx.saved_tensors
        return gradient * derivative, None, None, None


class _RowSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, terms: Terms, student: Any, teacher: Any) -> Tensor:
        sums = logits.new_empty(logits.shape[:-1])
        derivatives = torch.empty_like(logits)
        block = CPU_BLOCK if logits.device.type == "cpu" else DEVICE_BLOCK
        step = max(block // max(logits.shape[1:].numel(), 1), 1)
        # A loop, as all rows at once need memory for each intermediate result.
        for start in range(0, len(logits), step):
            rows = slice(start, start + step)
            loss = terms(student[rows], teacher[rows], derivatives[rows])
            torch.sum(loss, dim=-1, out=sums[rows])
        ctx.save_for_backward(derivatives)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (derivatives,) = ctx.saved_tensors
        return gradient.unsqueeze(-1) * derivatives, None, None, None


def element_losses(terms: Terms, student: Tensor | BinaryLogits, teacher: Tensor | BinaryLogits) -> Tensor:
    """The loss of each element; gradients reach the student only.

    Args:
        terms: Loss and derivative.
        student: Logits of any shape, float32 or float64, or what was prepared of them.
        teacher: Likewise.
    """
    return _Elements.apply(_logits(student), terms, student, teacher)


def row_losses(terms: Terms, student: Tensor | BinaryLogits, teacher: Tensor | BinaryLogits) -> Tensor:
    """(...,) the loss of each row of (..., C) logits, the sum over its elements; see :func:`element_losses`."""
    if len(student.shape) < 2:
        return element_losses(terms, student, teacher).sum(dim=-1)
    return _RowSums.apply(_logits(student), terms, student, teacher)


def _logits(of: Tensor | BinaryLogits) -> Tensor:
    return of.logits if isinstance(of, BinaryLogits) else of
