"""Diversity of attention maps: the target by hand, and what it does to features."""

from lad.losses import complementary_attention, complementary_features, diversity_loss

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st


def test_lowest_third_stays_and_the_rest_is_turned_around():
    # Length 7, so u = (6, 3, 2, 0, 0, 0) / 7, and the second lowest is the threshold, 0.
    attention = torch.tensor([[6.0, 3.0, 2.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[7 - 6 / 7, 7 - 3 / 7, 7 - 2 / 7, 3.5, 3.5, 3.5]])
    torch.testing.assert_close(complementary_attention(attention), expected)


def test_values_below_the_threshold_stay():
    attention = torch.tensor([[1.0, 2.0, 4.0, 8.0, 4.0, 10.0]])  # length sqrt(201); 2 is the threshold
    norm = 201**0.5
    u = attention[0] / norm
    expected = torch.stack([u[0], torch.tensor(norm / 2), *(norm - u[2:])])
    torch.testing.assert_close(complementary_attention(attention)[0], expected)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_maps_of_few_positions_have_a_threshold(size):
    assert complementary_attention(torch.ones(2, size)).shape == (2, size)


def test_size_of_the_target_grows_with_the_features_as_in_the_authors_code():
    student, other = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    small, large = diversity_loss(student, other), diversity_loss(student, 10 * other)
    assert (large > 50 * small).all()
    torch.testing.assert_close(diversity_loss(10 * student, other), small)


def test_shifted_features_by_hand():
    features = torch.tensor([[[[1.0, 2.0]], [[1.0, 2.0]]]])  # attention (1, 4), n = sqrt(17)
    norm = 17**0.5
    u = torch.tensor([1.0, 4.0]) / norm
    target = torch.tensor([norm / 2, norm - u[1]])
    expected = features[0] + ((target - u) * norm / 2).view(1, 1, 2)
    torch.testing.assert_close(complementary_features(features)[0], expected)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(3, 30))
def test_order_of_positions_does_not_matter(seed, channels, positions):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, channels, 1, positions, generator=generator)
    order = torch.randperm(positions, generator=generator)
    torch.testing.assert_close(
        complementary_features(features[..., order]), complementary_features(features)[..., order]
    )


def test_no_activation_at_all_gives_finite_values():
    zero = torch.zeros(1, 2, 3, 3, requires_grad=True)
    diversity_loss(zero, zero).sum().backward()
    assert zero.grad.isfinite().all()
