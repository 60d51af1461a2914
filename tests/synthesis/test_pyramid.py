"""Images as sums of levels of several resolutions."""

from lad.synthesis.pyramid import Pyramid

import pytest
import torch


def test_images_are_the_sum_of_their_levels():
    pyramid = Pyramid(torch.randn(1, 1, 8, 12), 3)
    assert [tuple(level.shape[-2:]) for level in pyramid.levels] == [(8, 12), (4, 6), (2, 3)]
    fine = pyramid.levels[0].detach().clone()
    with torch.no_grad():
        pyramid.levels[1].fill_(2.0)  # bilinear interpolation of a constant is the constant
        pyramid.levels[2].fill_(0.5)
    assert torch.allclose(pyramid.images(), fine + 2.5)


@pytest.mark.parametrize(("size", "levels"), [((4, 4), 2), ((3, 64), 2), ((2, 2), 1)])
def test_coarsest_level_has_at_least_two_pixels(size, levels):
    assert len(Pyramid(torch.zeros(1, 1, *size), 9).levels) == levels


def test_projection_moves_the_images_and_no_coarse_level():
    pyramid = Pyramid(torch.randn(2, 3, 8, 8), 2)
    with torch.no_grad():
        pyramid.levels[1].normal_(std=3)
    coarse = pyramid.levels[1].detach().clone()
    projected = pyramid.project(lambda images: images.clamp(-1, 1))
    assert projected.abs().max() <= 1
    assert torch.allclose(pyramid.images(), projected, atol=1e-5)
    assert torch.equal(pyramid.levels[1], coarse)


def test_one_step_of_adam_moves_a_large_area_by_every_level():
    moved = []
    for levels in (1, 4):
        pyramid = Pyramid(torch.zeros(1, 1, 16, 16), levels)
        optimiser = torch.optim.Adam(pyramid.levels, lr=0.1)
        (-pyramid.images().mean()).backward()
        optimiser.step()
        moved.append(pyramid.images().mean().item())
    assert moved == pytest.approx([0.1, 0.4], rel=1e-4)
