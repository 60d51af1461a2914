"""Agreement of two views on their relations to other images (FedX)."""

import math

from lad.losses import relation_agreement_loss
from lad.losses.precision import upcast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st


def embeddings(seed, images=3, references=4, channels=5):
    generator = torch.Generator().manual_seed(seed)
    shapes = (images, channels), (images, channels), (references, channels)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def relations(view, references, temperature):
    scores = [
        math.exp(float(torch.cosine_similarity(view, other, dim=0)) / temperature) for other in references
    ]
    return [score / sum(scores) for score in scores]


def written_out(first, second, references, temperature, target_temperature):
    """By loops over the definition."""
    rows = []
    for pair in zip(first, second, strict=True):
        targets = [relations(view, references, target_temperature) for view in pair]
        mean = [sum(each) / 2 for each in zip(*targets, strict=True)]
        own = [relations(view, references, temperature) for view in pair]
        rows.append(sum(m * math.log(m / p) for view in own for m, p in zip(mean, view, strict=True)) / 2)
    return torch.tensor(rows, dtype=torch.float64)


def test_hand_arithmetic():
    """One view sees both references alike, the other one is the first of them: relations (1/2, 1/2) and (e, 1)/(e+1).

    At a temperature of 1 the mean is m = ((1/2 + e/(e+1)) / 2, (1/2 + 1/(e+1)) / 2).
    """
    references, alike = torch.eye(2), torch.tensor([[2.0, 2.0]])
    p = math.e / (math.e + 1)
    m = (0.5 + p) / 2
    expected = (
        m * math.log(m / 0.5)
        + (1 - m) * math.log((1 - m) / 0.5)
        + m * math.log(m / p)
        + (1 - m) * math.log((1 - m) / (1 - p))
    ) / 2
    found = relation_agreement_loss(alike, 3 * references[:1], references, 1.0, 1.0)
    torch.testing.assert_close(found, torch.tensor([expected]))


@given(st.integers(0, 1000), st.sampled_from([0.1, 0.5]), st.sampled_from([0.01, 0.1, 1.0]))
def test_value_is_that_of_the_definition(seed, temperature, target_temperature):
    given_ = embeddings(seed)
    found = relation_agreement_loss(*given_, temperature, target_temperature)
    expected = written_out(*given_, temperature, target_temperature)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_gradient_is_that_of_the_divergence_from_a_constant_mean():
    first, second, references = (tensor.requires_grad_() for tensor in embeddings(1))
    relation_agreement_loss(first, second, references).sum().backward()
    found = [tensor.grad.clone() for tensor in (first, second, references)]
    cosines = [F.cosine_similarity(view[:, None], references[None], dim=2) / 0.1 for view in (first, second)]
    mean = sum(each.detach().softmax(1) for each in cosines) / 2
    cross_entropy = -sum((mean * each.log_softmax(1)).sum() for each in cosines) / 2
    expected = torch.autograd.grad(cross_entropy, (first, second, references))
    torch.testing.assert_close(found, list(expected))


def test_equal_views_have_no_loss_and_the_order_of_references_does_not_matter():
    first, second, references = embeddings(2)
    assert relation_agreement_loss(first, 2 * first, references).abs().max() < 1e-12
    found = relation_agreement_loss(first, second, references)
    torch.testing.assert_close(relation_agreement_loss(second, first, references.flip(0)), found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    given_ = [1e3 * tensor.to(dtype) for tensor in embeddings(3)]
    found = relation_agreement_loss(*given_)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, relation_agreement_loss(*map(upcast, given_)))


def test_other_shapes_and_temperatures_are_refused():
    first, second, references = embeddings(4)
    for wrong in (
        (first[:2], second, references),
        (first, second, references[:, :3]),
        (first[0], second[0], references),
    ):
        with pytest.raises(ValueError, match="embeddings of shapes"):
            relation_agreement_loss(*wrong)
    with pytest.raises(ValueError, match="positive"):
        relation_agreement_loss(first, second, references, target_temperature=0.0)
