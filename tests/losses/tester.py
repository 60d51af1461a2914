"""Shared checks of losses: value, gradient, precision, NaN, samples and devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from helpers import fake_cuda
from torch import Tensor


@dataclass(frozen=True)
class LossCase:
    """A loss of a student and a teacher with inputs, and what must hold for them.

    Attributes:
        loss: ``loss(student, teacher, *others)``, element-wise or reduced.
        reference: The same in float64, written another way.
        student: float64 inputs at which the loss can be differentiated.
        teacher: float64 inputs, which get no gradient.
        others: Further inputs (labels, targets); floating ones are cast as the teacher is.
        per_sample: Whether the first dimension of inputs and result is that of the samples, each with its own loss.
        order_free: Whether the sum of the loss stays when the samples change places.
        large: Factor at which the inputs' squares overflow float16, and the inputs themselves do not.
        tolerance: Of values in float32, relative and absolute.
        exact: Of values in float64.
        taught: Whether there is a teacher; otherwise ``teacher`` is passed as it is.
    """

    loss: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    student: Tensor
    teacher: Tensor
    others: tuple[Tensor, ...] = ()
    per_sample: bool = True
    order_free: bool = True
    large: float = 1000.0
    tolerance: float = 1e-5
    exact: float = 1e-9
    taught: bool = True

    def inputs(self, dtype: torch.dtype, scale: float = 1.0, device: str | None = None) -> list[Tensor]:
        """Student, teacher and others in a dtype; new tensors."""
        tensors = [self.student * scale, self.teacher * scale if self.taught else self.teacher, *self.others]
        tensors = [
            tensor.to(dtype if tensor.is_floating_point() else tensor.dtype).clone() for tensor in tensors
        ]
        return [torch.empty_like(tensor, device=device) for tensor in tensors] if device else tensors

    def check_value(self) -> None:
        """The value is the reference's, in float32 and float64."""
        expected = self.reference(*self.inputs(torch.float64))
        torch.testing.assert_close(
            self.loss(*self.inputs(torch.float64)), expected, rtol=self.exact, atol=self.exact
        )
        found = self.loss(*self.inputs(torch.float32))
        torch.testing.assert_close(found, expected.float(), rtol=self.tolerance, atol=self.tolerance)

    def check_gradient(self) -> None:
        """The student's gradient is that of finite differences; the teacher gets none."""
        student, *more = self.inputs(torch.float64)
        student.requires_grad_()
        assert torch.autograd.gradcheck(lambda values: self.loss(values, *more), (student,))
        if self.taught:
            more[0].requires_grad_()
            self.loss(student, *more).sum().backward()
            assert student.grad.abs().sum() > 0
            assert more[0].grad is None

    def check_half_precision(self, dtype: torch.dtype, scale: float) -> None:
        """Half-precision inputs give the value and the gradient of the same numbers in float32, none infinite."""
        halves = self.inputs(dtype, scale)
        singles = [tensor.float() if tensor.is_floating_point() else tensor for tensor in halves]
        halves[0].requires_grad_()
        singles[0].requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = self.loss(*halves)
        expected = self.loss(*singles)
        assert expected.isfinite().all()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        # Of the mean, as in a training: a sum over elements may be larger than float16.
        found.mean().backward()
        expected.mean().backward()
        torch.testing.assert_close(halves[0].grad, singles[0].grad.to(dtype), rtol=1e-2, atol=1e-6)
        assert halves[0].grad.isfinite().all()

    def check_nan(self) -> None:
        """A NaN of the student or the teacher comes out as NaN, whatever the other numbers are."""
        for side in range(2 if self.taught else 1):
            inputs = self.inputs(torch.float32)
            inputs[side].view(-1)[0] = torch.nan
            assert self.loss(*inputs).isnan().any()

    def check_samples(self) -> None:
        """Samples that change places keep their loss, or the sum keeps its value."""
        inputs = self.inputs(torch.float64)
        order = torch.arange(len(self.student)).roll(1)
        moved = self.loss(*(tensor[order] for tensor in inputs))
        found = self.loss(*inputs)
        if self.per_sample:
            torch.testing.assert_close(moved, found[order])
        torch.testing.assert_close(moved.sum(), found.sum())

    def check_device(self) -> None:
        """On CUDA tensors nothing meets a CPU tensor or waits for a value; the result has the shape of the CPU's."""
        shape = self.loss(*self.inputs(torch.float32)).shape
        with fake_cuda():
            found = self.loss(*self.inputs(torch.float32, device="cuda"))
            assert (found.device.type, found.shape, found.dtype) == ("cuda", shape, torch.float32)
