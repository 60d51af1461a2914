"""Precision that losses are computed in."""

from lad.losses.precision import upcast, upcast_pair

import pytest
import torch


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_cast_up_and_float64_stays(given, expected):
    values = torch.tensor([1.5, -2.0], dtype=given)
    assert torch.equal(upcast(values), torch.tensor([1.5, -2.0], dtype=expected))


@pytest.mark.parametrize("teacher", [torch.float16, torch.float32, torch.float64])
def test_teacher_gets_the_students_dtype_and_no_gradient(teacher):
    own = torch.ones(2, dtype=torch.float16, requires_grad=True)
    taught = torch.full((2,), 3.0, dtype=teacher, requires_grad=True)
    student, target = upcast_pair(own, taught)
    assert student.dtype == target.dtype == torch.float32
    (student * target).sum().backward()
    assert own.grad.tolist() == [3, 3]
    assert taught.grad is None
