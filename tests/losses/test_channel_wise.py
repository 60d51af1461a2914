"""Divergence of where channels are active."""

import math

from lad.losses import CWDLoss, channel_wise_divergence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


def random_maps(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_hand_arithmetic():
    """Two positions. Teacher (0, ln 3): 1/4, 3/4. Student equal: 1/2, 1/2. KL = 1/4 ln(1/2) + 3/4 ln(3/2) =
    -0.173287 + 0.304099 = 0.130812. The second channel is the teacher's: 0.
    At T = 2 the same of (0, 2 ln 3), times 4."""
    student = torch.tensor([[[[0.0, 0]], [[1, 2]]]])
    teacher = torch.tensor([[[[0.0, math.log(3)]], [[1, 2]]]])
    assert channel_wise_divergence(student, teacher).tolist() == [[pytest.approx(0.130812, abs=1e-6), 0]]
    hot = channel_wise_divergence(2 * student, 2 * teacher, temperature=2.0)
    assert hot[0, 0].item() == pytest.approx(4 * 0.130812, abs=1e-5)
    assert CWDLoss()(student, teacher).item() == pytest.approx(0.130812 / 2, abs=1e-6)
    assert CWDLoss(loss_weight=5.0)(student, teacher).item() == pytest.approx(5 * 0.130812 / 2, abs=1e-5)
    weight = torch.tensor([[1.0, 0]])
    assert CWDLoss()(student, teacher, weight, avg_factor=1).item() == pytest.approx(0.130812, abs=1e-6)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), shift=st.floats(-10, 10), temperature=st.sampled_from([0.5, 1.0, 4.0]))
def test_shifts_of_channels_and_orders_do_not_matter_and_equals_cost_nothing(seed, shift, temperature):
    student, teacher = random_maps(seed, 2, 4, 3, 5), random_maps(seed + 1, 2, 4, 3, 5)
    expected = channel_wise_divergence(student, teacher, temperature)
    assert (expected >= 0).all()
    shifted = student + shift * torch.arange(4.0)[:, None, None]
    torch.testing.assert_close(
        channel_wise_divergence(shifted, teacher - shift, temperature), expected, rtol=1e-3, atol=1e-4
    )
    order = [2, 0, 3, 1]
    torch.testing.assert_close(
        channel_wise_divergence(student[:, order], teacher[:, order], temperature), expected[:, order]
    )
    # Positions: rows and columns swapped in both.
    torch.testing.assert_close(channel_wise_divergence(student.mT, teacher.mT, temperature), expected)
    assert channel_wise_divergence(student, student, temperature).abs().max() == 0


def test_equals_torchs_divergence():
    """torch.nn.functional.kl_div, summed over a channel."""
    student, teacher = random_maps(0, 2, 3, 4, 4), random_maps(1, 2, 3, 4, 4)
    expected = torch.nn.functional.kl_div(
        (student.flatten(2) / 3).log_softmax(2), (teacher.flatten(2) / 3).softmax(2), reduction="none"
    ).sum(2)
    torch.testing.assert_close(channel_wise_divergence(student, teacher, 3.0), 9 * expected)


def test_gradient_makes_the_student_active_where_the_teacher_is():
    student = torch.zeros(1, 1, 1, 3, requires_grad=True)
    teacher = torch.tensor([[[[3.0, 0, 0]]]], requires_grad=True)
    channel_wise_divergence(student, teacher).sum().backward()
    assert student.grad[0, 0, 0, 0] < 0 < student.grad[0, 0, 0, 1]
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_and_constant_channels_are_finite_with_finite_gradients(dtype):
    student = torch.tensor([[[[0.0, 0]], [[-6e4, 6e4]], [[6e4, 6e4]]]]).to(dtype).requires_grad_()
    teacher = torch.tensor([[[[0.0, 6e4]], [[6e4, -6e4]], [[-6e4, -6e4]]]]).to(dtype)
    loss = channel_wise_divergence(student, teacher)
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    loss.sum().backward()
    assert student.grad.isfinite().all()


def test_shapes_and_temperature_are_checked():
    with pytest.raises(ValueError, match=r"got \(1, 2, 3, 3\) \(student\) and \(1, 3, 3, 3\)"):
        channel_wise_divergence(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, 3))
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        channel_wise_divergence(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3), 0)
