"""Two orders of the priors of a batch: prior by prior, and as they lie in a head's maps."""

from lad.heads.dense import flatten_levels, join_levels, join_priors

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3)


@settings(max_examples=40)
@given(images=st.integers(1, 3), anchors=st.integers(1, 3), channels=st.integers(1, 4), sizes=SIZES)
def test_what_is_known_of_a_prior_stays_with_its_scores(images, anchors, channels, sizes):
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(images, anchors * channels, *size, generator=generator) for size in sizes]
    flat = flatten_levels(levels, channels)
    joined = join_levels(levels, channels)
    assert joined.shape == (images * anchors, sum(h * w for h, w in sizes), channels)
    # The scores themselves, as what is known of a prior.
    for channel in range(channels):
        assert torch.equal(join_priors(flat[..., channel], sizes), joined[..., channel])


def test_the_priors_of_an_image_lie_anchor_by_anchor_and_cell_by_cell():
    # One image, two anchors, two levels of 1x2 and 1x1 cells: MMDetection counts cell by cell.
    assert join_priors(torch.arange(6)[None], [(1, 2), (1, 1)]).tolist() == [[0, 2, 4], [1, 3, 5]]


def test_classes_stay_apart_in_memory_as_in_the_maps():
    levels = [torch.randn(2, 6, 4, 4), torch.randn(2, 6, 2, 2)]
    assert join_levels(levels, 3).transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("join", [flatten_levels, join_levels])
def test_gradients_return_to_the_maps(join):
    levels = [torch.randn(2, 6, size, size, requires_grad=True) for size in (4, 2)]
    join(levels, 3).square().sum().backward()
    for level in levels:
        torch.testing.assert_close(level.grad, 2 * level.detach())
