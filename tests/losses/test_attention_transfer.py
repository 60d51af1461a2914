"""Distance of where two networks look."""

import math

from lad.losses import ATLoss, attention_transfer_loss
from lad.losses.attention_transfer import attention_map

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


def random_maps(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_hand_arithmetic():
    """Two channels, a row of two positions. Student: (1, 0) and (2, 0): sums of squares (5, 0), length 1: (1, 0).
    Teacher, one channel: (1, sqrt(4/3)): squares (1, 4/3), norm 5/3, so (0.6, 0.8). Difference (0.4, -0.8), squared
    0.16 + 0.64 = 0.8, over two positions 0.4. The norm is sqrt(0.8), half of it over two positions sqrt(0.8) / 4."""
    student = torch.tensor([[[[1.0, 0]], [[2, 0]]]])
    teacher = torch.tensor([[[[1.0, math.sqrt(4 / 3)]]]])
    assert attention_transfer_loss(student, teacher).tolist() == pytest.approx([0.4])
    assert attention_transfer_loss(student, teacher, squared=False).item() == pytest.approx(
        math.sqrt(0.8) / 4
    )
    # p = 1: sums (3, 0) and (1, 1.1547), norm 1.52753: (0.65465, 0.75593); 0.34535^2 + 0.75593^2 = 0.69069.
    assert attention_transfer_loss(student, teacher, power=1.0).item() == pytest.approx(0.69069 / 2, abs=1e-5)
    assert ATLoss()(student, teacher).item() == pytest.approx(400)
    both = torch.cat([student, torch.cat([teacher, 0 * teacher], dim=1)]), torch.cat([teacher, teacher])
    assert ATLoss(loss_weight=1.0)(*both).item() == pytest.approx(0.2)
    assert ATLoss(loss_weight=1.0)(
        *both, weight=torch.tensor([1.0, 0]), avg_factor=1
    ).item() == pytest.approx(0.4)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    scales=st.tuples(*[st.floats(1e-4, 1e4)] * 2),
    squared=st.booleans(),
)
def test_size_sign_and_order_of_the_channels_do_not_matter(seed, scales, squared):
    student, teacher = random_maps(seed, 2, 4, 3, 5), random_maps(seed + 1, 2, 6, 3, 5)
    expected = attention_transfer_loss(student, teacher, squared=squared)
    changed = attention_transfer_loss(
        -scales[0] * student[:, [2, 0, 3, 1]], scales[1] * teacher.flip(1), squared=squared
    )
    torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-7)
    assert attention_transfer_loss(student, 3 * student, squared=squared).abs().max() < 1e-7
    # Two unit vectors without negative entries are no farther than sqrt(2) apart.
    assert (expected <= 2 / 15).all()


@pytest.mark.parametrize("squared", [True, False])
def test_step_against_the_gradient_lowers_the_loss(squared):
    student, teacher = (
        random_maps(0, 1, 3, 4, 4).requires_grad_(),
        random_maps(1, 1, 3, 4, 4).requires_grad_(),
    )
    loss = attention_transfer_loss(student, teacher, squared=squared).sum()
    loss.backward()
    assert teacher.grad is None
    with torch.no_grad():
        nearer = student - 0.1 * student.grad / student.grad.norm()
    assert attention_transfer_loss(nearer, teacher, squared=squared).sum() < loss


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [0.0, 1e-6, 6e4])
@pytest.mark.parametrize("squared", [True, False])
def test_constant_maps_are_finite_with_finite_gradients(dtype, value, squared):
    student = torch.full((1, 2, 3, 3), value, dtype=dtype, requires_grad=True)
    teacher = torch.full((1, 2, 3, 3), 6e4, dtype=dtype)
    loss = attention_transfer_loss(student, teacher, squared=squared)
    assert loss.dtype == torch.float32
    loss.sum().backward()
    assert loss.isfinite().all()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("value", [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("squared", [True, False])
def test_gradient_of_faint_features_fits_float16(value, squared):
    """With the weight of 1000; without a floor it is about 1e6 for features of 1e-6."""
    student = (value * (1 + random_maps(0, 1, 2, 3, 3).abs())).half().requires_grad_()
    teacher = random_maps(1, 1, 2, 3, 3).half()
    loss = ATLoss(squared=squared)(student, teacher)
    loss.backward()
    assert student.grad.isfinite().all()
    # The same direction as in float32, where nothing overflows.
    single = student.detach().float().requires_grad_()
    ATLoss(squared=squared)(single, teacher.float()).backward()
    alike = torch.cosine_similarity(student.grad.float().flatten(), single.grad.flatten(), dim=0)
    assert alike > (0.999 if value >= 2e-3 else 0.1)


def test_faint_features_have_a_fainter_map_in_float16_alone():
    """A single position of 1e-6 below a floor of 2e-3: (5e-4)^2; of 4e-3: 1."""
    maps = torch.tensor([1e-6, 4e-3]).view(2, 1, 1, 1)
    found = attention_map(maps.half())
    torch.testing.assert_close(found, torch.tensor([[2.5e-7], [1.0]]), rtol=0.1, atol=0)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        assert attention_map(maps.to(dtype)).tolist() == [[1], [1]]


def test_largest_floats_do_not_overflow():
    student = torch.full((1, 2, 3, 3), 1e38)
    assert attention_transfer_loss(student, random_maps(0, 1, 2, 3, 3)).isfinite().all()


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"one size, got \(1, 2, 3, 3\) \(student\) and \(1, 2, 3, 4\)"):
        attention_transfer_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4))
