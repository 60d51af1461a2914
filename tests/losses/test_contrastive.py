"""NT-Xent: the contrastive loss of two views."""

import math

from lad.losses import nt_xent_loss

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st


def embeddings(seed, count=5, channels=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, channels, generator=generator, dtype=torch.float64)


def written_out(first, second, temperature):
    """The mean over all embeddings, by loops over the definition."""
    views = [*first, *second]
    count, terms = len(first), []
    for i, view in enumerate(views):
        cosines = [torch.cosine_similarity(view, other, dim=0) / temperature for other in views]
        positive = (i + count) % (2 * count)
        others = torch.stack([cosine for k, cosine in enumerate(cosines) if k != i])
        terms.append(others.exp().sum().log() - cosines[positive])
    return sum(terms) / len(terms)


def test_hand_arithmetic():
    """Two orthogonal images, each with two equal views: cosines 1 (the other view), 0 and 0."""
    first = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    expected = math.log((math.exp(2) + 2) / math.exp(2))
    torch.testing.assert_close(nt_xent_loss(first, 5 * first, 0.5), torch.full((4,), expected))


@given(st.integers(0, 1000), st.integers(2, 6), st.sampled_from([0.1, 0.5, 2.0]))
def test_value_and_gradients_are_those_of_the_definition(seed, count, temperature):
    views = embeddings(seed, count)
    found, expected = (views.clone().requires_grad_() for _ in range(2))
    loss = nt_xent_loss(*found, temperature).mean()
    reference = written_out(*expected, temperature)
    torch.testing.assert_close(loss, reference, rtol=1e-9, atol=1e-9)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-6, atol=1e-9)


@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_length_of_embeddings_order_of_images_and_of_views_do_not_matter(seed, scale):
    first, second = embeddings(seed)
    expected = nt_xent_loss(first, second).mean()
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    moved = nt_xent_loss(scale * second[order], first[order]).mean()
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_parts_of_a_batch_with_all_candidates_are_the_batch(parts):
    views = embeddings(0, 6).requires_grad_()
    whole = nt_xent_loss(*views)
    size = 6 // parts
    rows = [
        nt_xent_loss(*views[:, start : start + size], candidates=views, start=start).view(2, size)
        for start in range(0, 6, size)
    ]
    found = torch.cat(rows, dim=1).flatten()
    torch.testing.assert_close(found, whole)
    (expected,) = torch.autograd.grad(whole.mean(), views)
    (gradient,) = torch.autograd.grad(found.mean(), views)
    torch.testing.assert_close(gradient, expected)


def test_candidates_of_others_are_negatives():
    """Without them the two images of a part would be told apart from each other alone."""
    views = embeddings(0, 6)
    own = nt_xent_loss(*views[:, :2])
    assert (nt_xent_loss(*views[:, :2], candidates=views, start=0) > own).all()


def test_a_single_image_has_nothing_to_be_told_apart_from():
    views = embeddings(0, 1).requires_grad_()
    loss = nt_xent_loss(*views)
    assert loss.tolist() == [0, 0]
    loss.sum().backward()
    assert not views.grad.any()


@pytest.mark.parametrize(
    ("second", "temperature"), [(torch.ones(3, 4), 0.1), (torch.ones(2, 4), 0.0), (torch.ones(2, 4), -1.0)]
)
def test_what_cannot_be_compared_is_refused(second, temperature):
    with pytest.raises(ValueError, match=r"shapes|temperature"):
        nt_xent_loss(torch.ones(2, 4), second, temperature)
