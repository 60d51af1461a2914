"""Focal KL divergence of binary predictions."""

import math

from lad.losses import FocalKLLoss, focal_kl_loss

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

logit = st.floats(-30, 30)


def test_hand_arithmetic():
    """Student 1/2, teacher 3/4: KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.304099 - 0.173287 = 0.130812;
    |1/4|^(1/2) = 1/2, so 0.065406 at gamma 0.5, and a quarter of KL at gamma 1."""
    student, teacher = torch.tensor([0.0]), torch.tensor([math.log(3)])
    assert focal_kl_loss(student, teacher, gamma=0.0).item() == pytest.approx(0.130812, abs=1e-6)
    assert focal_kl_loss(student, teacher, gamma=0.5).item() == pytest.approx(0.065406, abs=1e-5)
    assert focal_kl_loss(student, teacher, gamma=1.0).item() == pytest.approx(0.032703, abs=1e-5)


def test_gradient_moves_the_student_towards_the_teacher_and_never_reaches_it():
    student = torch.tensor([0.0, 0.0], requires_grad=True)
    teacher = torch.tensor([2.0, -2.0], requires_grad=True)
    focal_kl_loss(student, teacher).sum().backward()
    assert student.grad[0] < 0 < student.grad[1]
    assert teacher.grad is None


@settings(max_examples=200)
@given(student=logit, teacher=logit, gamma=st.sampled_from([0.0, 0.5, 2.0]))
def test_not_negative_zero_for_equals_and_the_same_with_classes_swapped(student, teacher, gamma):
    s, t = torch.tensor([student]), torch.tensor([teacher])
    assert focal_kl_loss(s, t, gamma).item() >= -1e-6
    assert focal_kl_loss(t, t, gamma).item() == 0
    assert focal_kl_loss(s, t, gamma).item() == pytest.approx(focal_kl_loss(-s, -t, gamma).item(), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_certain_predictions_are_finite_with_finite_gradients(dtype):
    extremes = torch.tensor([-60000.0, -100.0, 0.0, 100.0, 60000.0]).to(dtype)
    student = extremes.repeat_interleave(5).requires_grad_()
    loss = focal_kl_loss(student, extremes.repeat(5))
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    loss.sum().backward()
    assert student.grad.isfinite().all()


def test_module_weighs_and_averages():
    student, teacher = torch.zeros(2, 3), torch.full((2, 3), math.log(3))
    loss = FocalKLLoss(gamma=0.0, loss_weight=2.0)
    assert loss(student, teacher).item() == pytest.approx(2 * 0.130812, abs=1e-5)
    weighted = loss(student, teacher, weight=torch.tensor([[1.0], [0.0]]), avg_factor=3.0)
    assert weighted.item() == pytest.approx(2 * 0.130812, abs=1e-5)
    assert loss(student, teacher, reduction_override="none").shape == (2, 3)


def test_shapes_and_gamma_are_checked():
    with pytest.raises(ValueError, match=r"shape \(2,\) \(student\) and \(3,\)"):
        focal_kl_loss(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="gamma must not be negative"):
        focal_kl_loss(torch.zeros(2), torch.zeros(2), -1.0)
