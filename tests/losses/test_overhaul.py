"""Overhaul of feature distillation: margins, margin ReLU and partial L2."""

from lad.losses import OFDLoss, negative_expectation, partial_l2_loss
from lad.losses.overhaul import MarginReLU

import pytest
import torch
from helpers import fake_cuda
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats


def maps(*values):
    return torch.tensor(values)[None, :, None, None]


@pytest.mark.parametrize("ratio", [-8.0, -3.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0, 20.0, 49.9, 50.1, 300.0])
@pytest.mark.parametrize("std", [0.01, 2.5])
def test_margin_is_the_integral_over_the_negative_part(ratio, std):
    """E[x | x < 0] by numerical integration of the density, relative to its value at 0 where it vanishes."""
    mean = ratio * std

    def density(x):
        return (
            stats.norm.pdf(x, mean, std)
            if ratio < 5
            else torch.exp(torch.tensor(x * (mean - x / 2) / std**2, dtype=torch.float64)).item()
        )

    low = min(mean, 0) - (12 * std if ratio < 5 else 60 * std / ratio)
    first, second = (
        integrate.quad(
            lambda x, n=n: x**n * density(x), low, 0, epsabs=0, epsrel=1e-11, points=[min(mean, low / 4)]
        )[0]
        for n in (1, 0)
    )
    found = negative_expectation(torch.tensor([mean]).double(), torch.tensor([std]).double())
    assert found.item() == pytest.approx(first / second, rel=1e-6)


def test_margin_without_a_deviation_or_with_hardly_any_is_the_limit():
    mean = torch.tensor([-2.0, 2.0, 0.0, -2.0, 2.0, 1e30, -1e30, 0.0])
    std = torch.tensor([0.0, 0.0, 0.0, 1e-30, 1e-30, 1.0, 1.0, 1e30])
    expected = torch.tensor([-2.0, 0.0, 0.0, -2.0, 0.0, 0.0, -1e30, -1e30 * (2 / torch.pi) ** 0.5])
    torch.testing.assert_close(negative_expectation(mean, std).float(), expected)
    halves = negative_expectation(mean[:3].half(), std[:3].half())
    torch.testing.assert_close(halves.float(), expected[:3])


@given(st.floats(-100, 100), st.floats(1e-3, 100), st.floats(1e-3, 1e3))
def test_margin_is_negative_scales_and_rises_with_the_mean(mean, std, scale):
    means = torch.tensor([mean, mean + std])
    lower, higher = negative_expectation(means, torch.tensor([std, std])).tolist()
    assert lower <= higher <= 0
    scaled = negative_expectation(scale * means, torch.tensor([std, std]) * scale)
    assert scaled[0].item() == pytest.approx(scale * lower, rel=1e-4)


def test_partial_l2_by_hand():
    """Inactive and at most the teacher's: nothing. Else squares: (2 - 1)^2, (-1 - 1)^2, (-1 + 0.5)^2, 0, (3 + 3)^2."""
    teacher = maps(2.0, -1.0, -1.0, -1.0, 3.0)
    student = maps(1.0, 1.0, -0.5, -4.0, -3.0)
    assert partial_l2_loss(student, teacher).item() == pytest.approx((1 + 4 + 0.25 + 0 + 36) / 5)
    assert OFDLoss(loss_weight=0.5)(student, teacher).item() == pytest.approx(41.25 / 10)
    both = torch.cat([student, teacher]), torch.cat([teacher, teacher])
    torch.testing.assert_close(partial_l2_loss(*both), torch.tensor([8.25, 0.0]))


def test_margin_relu_replaces_what_is_below_each_channels_margin():
    relu = MarginReLU(torch.tensor([-0.5, -2.0]))
    features = torch.tensor([[-1.0, 3.0], [-1.0, -5.0]]).view(1, 2, 1, 2).half()
    found = relu(features)
    assert found.dtype == torch.float32
    assert found.flatten().tolist() == [-0.5, 3.0, -1.0, -2.0]
    assert not relu.state_dict()


def test_gradient_stops_where_the_neuron_is_inactive_enough():
    student, teacher = maps(1.0, 1.0, -4.0).requires_grad_(), maps(2.0, -1.0, -1.0).requires_grad_()
    partial_l2_loss(student, teacher).sum().backward()
    torch.testing.assert_close(student.grad, maps(-2 / 3, 4 / 3, 0.0))
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    student = torch.full((1, 2, 3, 3), -300.0, dtype=dtype, requires_grad=True)
    loss = partial_l2_loss(student, torch.full((1, 2, 3, 3), 300.0, dtype=dtype))
    assert loss.item() == pytest.approx(600**2, rel=0.02)
    loss.sum().backward()
    assert student.grad.isfinite().all()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="need maps"):
        partial_l2_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4))


def test_on_cuda_tensors_nothing_waits():
    with fake_cuda():
        relu = MarginReLU(negative_expectation(torch.zeros(4, device="cuda"), torch.ones(4, device="cuda")))
        teacher, student = (torch.randn(2, 4, 3, 5, device="cuda") for _ in range(2))
        assert OFDLoss()(student, relu(teacher)).device.type == "cuda"
