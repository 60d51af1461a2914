"""The divergence of two networks' similarities of images (DoGo)."""

import math

from lad.losses import similarity_divergence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st


def views(seed, count=4, channels=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, channels, generator=generator, dtype=torch.float64)


def written_out(own, taught, temperature):
    """By loops over the definition."""
    rows = []
    for i in range(len(own[0])):
        scores = [
            [
                math.exp(float(torch.cosine_similarity(first[i], other, dim=0)) / temperature)
                for other in second
            ]
            for first, second in (own, taught)
        ]
        p_own, p_taught = ([score / sum(row) for score in row] for row in scores)
        rows.append(sum(t * math.log(t / o) for t, o in zip(p_taught, p_own, strict=True)))
    return torch.tensor(rows, dtype=torch.float64)


def test_hand_arithmetic():
    """The teacher tells two images apart (cosines 1 and 0), the network does not (1 and 1).

    At T = 1/2 the teacher's row is (e^2, 1) / (e^2 + 1) and the network's (1/2, 1/2): the divergence is log 2 minus the
    teacher's entropy.
    """
    images, equal = torch.eye(2), torch.tensor([[3.0, 0.0], [5.0, 0.0]])
    p = math.exp(2) / (math.exp(2) + 1)
    expected = math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p)
    found = similarity_divergence(equal, equal, 7 * images, images, temperature=0.5)
    torch.testing.assert_close(found, torch.full((2,), expected))


def test_similarity_of_an_images_own_two_views_counts():
    """Own rows (1, 0) and (0, 1), taught rows (0, 1) and (1, 0): without the diagonal there would be one image left."""
    images = torch.eye(2)
    p = math.e / (math.e + 1)
    expected = (1 - p) * math.log((1 - p) / p) + p * math.log(p / (1 - p))
    found = similarity_divergence(images, images, images, images.flip(0), temperature=1.0)
    torch.testing.assert_close(found, torch.full((2,), expected))


@given(st.integers(0, 1000), st.integers(1, 5), st.sampled_from([0.1, 0.5, 2.0]))
def test_value_is_that_of_the_definition_also_for_embeddings_of_other_widths(seed, count, temperature):
    own, taught = views(seed, count), views(seed + 1, count, channels=3)
    found = similarity_divergence(*own, *taught, temperature)
    torch.testing.assert_close(found, written_out(own, taught, temperature), rtol=1e-7, atol=1e-9)
    assert (found >= -1e-12).all()


@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_neither_lengths_nor_the_order_of_images_matter(seed, scale):
    own, taught = views(seed), views(seed + 1)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    moved = similarity_divergence(*(scale * own[:, order]), *taught[:, order])
    torch.testing.assert_close(moved, similarity_divergence(*own, *taught)[order])


def test_equal_similarities_have_no_divergence():
    """Embeddings that differ by a rotation."""
    own = views(0)
    rotation, _ = torch.linalg.qr(views(1, 5)[0])
    assert similarity_divergence(*own, *(own @ rotation)).abs().max() < 1e-12


def test_part_of_the_images_with_all_candidates_is_part_of_the_rows():
    own, taught = views(0), views(1)
    whole = similarity_divergence(*own, *taught)
    part = similarity_divergence(own[0, 1:3], own[1], taught[0, 1:3], taught[1])
    torch.testing.assert_close(part, whole[1:3])


@pytest.mark.parametrize(
    ("shapes", "temperature"),
    [
        ([(2, 4), (2, 3), (2, 4), (2, 4)], 0.1),
        ([(2, 4), (2, 4), (3, 4), (2, 4)], 0.1),
        ([(2, 4), (2, 4), (2, 4), (3, 4)], 0.1),
        ([(2, 4), (2, 4), (2, 4), (2, 4)], 0.0),
    ],
)
def test_what_cannot_be_compared_is_refused(shapes, temperature):
    with pytest.raises(ValueError, match=r"shapes|shape|temperature"):
        similarity_divergence(*map(torch.ones, shapes), temperature)
