"""The number of seeds that a difference needs is that with which simulated intervals find it."""

from lad.evaluation.power import half_width, seeds_needed

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t


def found(difference, seeds, seed_deviation, image_deviation, trials=20000):
    """How often the interval of so many pairs is above 0, each trial with its own seeds and images."""
    generator = np.random.default_rng(0)
    pairs = difference + seed_deviation * generator.standard_normal((trials, seeds))
    pairs += image_deviation * generator.standard_normal((trials, 1))
    margin = t.ppf(0.975, seeds - 1) * pairs.std(axis=1, ddof=1) / seeds**0.5
    return np.mean(pairs.mean(axis=1) > np.hypot(1.96 * image_deviation, margin))


@pytest.mark.parametrize(
    ("difference", "seed_deviation", "image_deviation"),
    [(0.01, 0.012, 0.0), (0.02, 0.02, 0.003), (0.01, 0.006, 0.002)],
)
def test_with_the_seeds_needed_the_difference_is_found_in_about_eight_of_ten_trials(
    difference, seed_deviation, image_deviation
):
    seeds = seeds_needed(difference, seed_deviation, image_deviation)
    assert found(difference, seeds, seed_deviation, image_deviation) == pytest.approx(0.8, abs=0.07)
    assert found(difference, max(2, seeds // 2), seed_deviation, image_deviation) < 0.65


def test_the_half_width_is_that_of_students_interval():
    assert half_width(5, 0.01, 0.0) == pytest.approx(2.7764 * 0.01 / 5**0.5, rel=1e-4)
    assert half_width(10**6, 0.01, 0.01) == pytest.approx(1.96 * 0.01, rel=1e-4)


def test_no_number_of_seeds_makes_up_for_too_few_images():
    assert seeds_needed(0.01, 0.01, 0.0) == 10  # that of the paired t test for a difference of one deviation
    assert seeds_needed(0.01, 0.01, 0.0036) is None  # 2.8 deviations are what the images alone take


def test_a_difference_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="difference must be positive, got 0"):
        seeds_needed(0, 0.01, 0.01)


@settings(max_examples=30)
@given(st.floats(0.001, 0.05), st.floats(0.0005, 0.05), st.floats(0, 0.003))
def test_a_larger_difference_never_needs_more_seeds(difference, seed_deviation, image_deviation):
    few, many = (seeds_needed(size, seed_deviation, image_deviation) for size in (2 * difference, difference))
    assert many is None or few <= many


def test_what_each_seed_has_for_itself_of_the_images_falls_with_their_number():
    """87 images on which differences scatter by seed: the first pilots' deviation of 3 seeds would never suffice."""
    shared, own, seed = 0.0015, 0.0065, (0.004**2 + 0.0065**2) ** 0.5
    together = (shared**2 + own**2 / 3) ** 0.5
    assert seeds_needed(0.01, seed, together) is None
    needed = seeds_needed(0.01, seed, shared, own)
    generator = np.random.default_rng(0)
    trials = 20000
    scatter = generator.standard_normal((trials, needed))
    pairs = 0.01 + shared * generator.standard_normal((trials, 1)) + seed * scatter
    margin = t.ppf(0.975, needed - 1) * pairs.std(axis=1, ddof=1) / needed**0.5
    width = np.hypot(1.96 * (shared**2 + own**2 / needed) ** 0.5, margin)
    assert np.mean(pairs.mean(axis=1) > width) == pytest.approx(0.8, abs=0.05)
