"""Activation boundaries: on which side of zero a neuron is."""

from lad.errors import ConfigError
from lad.losses import ABLoss, activation_boundary_loss

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st


def maps(*values):
    return torch.tensor(values)[None, :, None, None]


def test_hand_arithmetic():
    """Active: (1 - 0.5)^2 and (1 + 2)^2; inactive: (1 + 0.5)^2 and nothing at -3; the mean of 0.25, 9, 2.25 and 0."""
    student, teacher = maps(0.5, -2.0, 0.5, -3.0), maps(3.0, 0.1, -0.2, 0.0)
    assert activation_boundary_loss(student, teacher).item() == pytest.approx(11.5 / 4)
    # Margin 2: 1.5^2, 4^2, 2.5^2, 0.
    assert activation_boundary_loss(student, teacher, 2.0).item() == pytest.approx(24.5 / 4)
    both = torch.cat([student, teacher * 9]), torch.cat([teacher, teacher])
    # Of the second image: inactive at -1.8 and 0, active at 27 and 0.9; (1 - 0.9)^2 and (1 + 0)^2 are left.
    torch.testing.assert_close(activation_boundary_loss(*both), torch.tensor([11.5 / 4, 1.01 / 4]))
    assert ABLoss(loss_weight=2.0)(*both).item() == pytest.approx((11.5 + 1.01) / 4)


@given(st.integers(0, 1000), st.floats(0.1, 5))
def test_nothing_is_left_once_all_are_on_the_right_side_by_the_margin_however_far(seed, margin):
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(2, 3, 4, 5, generator=generator)
    beyond = margin * (1 + torch.rand(teacher.shape, generator=generator))
    student = torch.where(teacher > 0, beyond, -beyond).requires_grad_()
    loss = activation_boundary_loss(student, teacher, margin)
    assert torch.equal(loss, torch.zeros(2))
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert not gradient.any()
    # How strong the teacher's activation is does not matter.
    other = torch.randn(2, 3, 4, 5, generator=generator)
    assert torch.equal(
        activation_boundary_loss(other, teacher, margin),
        activation_boundary_loss(other, 100 * teacher, margin),
    )


def test_gradient_draws_each_neuron_to_its_side_and_never_reaches_the_teacher():
    student = maps(0.0, 0.0, 2.0, -2.0).requires_grad_()
    teacher = maps(1.0, -1.0, 1.0, -1.0).requires_grad_()
    activation_boundary_loss(student, teacher).sum().backward()
    # d/dS of (1 - S)^2 / 4 at 0.
    torch.testing.assert_close(student.grad, maps(-0.5, 0.5, 0.0, 0.0))
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    """300^2 is more than float16 holds."""
    student = torch.full((1, 2, 3, 3), -300.0, dtype=dtype, requires_grad=True)
    loss = activation_boundary_loss(student, torch.ones(1, 2, 3, 3, dtype=dtype))
    assert loss.item() == pytest.approx(301**2, rel=0.02)
    loss.sum().backward()
    assert student.grad.isfinite().all()


def test_wrong_shapes_and_margins_are_refused():
    with pytest.raises(ValueError, match="need maps"):
        activation_boundary_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, 3))
    with pytest.raises(ConfigError, match="margin must be at least 0, got -1"):
        ABLoss(margin=-1)


@pytest.mark.parametrize("response", [-5.0, 0.0, 5.0])
def test_nan_of_the_teacher_comes_out_as_nan(response):
    """Of one image; the other one's neurons are where the teacher's are."""
    student, teacher = maps(response, -3.0).repeat(2, 1, 1, 1), maps(1.0, -1.0).repeat(2, 1, 1, 1)
    student[1, 0], teacher[0, 0] = 2.0, float("nan")
    loss = activation_boundary_loss(student, teacher)
    assert loss[0].isnan()
    assert loss[1].item() == 0
    assert ABLoss()(student, teacher).isnan()
