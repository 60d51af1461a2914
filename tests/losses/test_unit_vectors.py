"""Vectors at length 1, and the losses of directions where there is nothing to normalise."""

from lad.losses import (
    SimilarityPreservingLoss,
    direction_distance,
    nt_xent_loss,
    relation_agreement_loss,
    similarity_divergence,
)
from lad.losses.unit_vectors import unit_vectors

import pytest
import torch
import torch.nn.functional as F


def test_equals_torchs_normalize_and_norm():
    vectors = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for dim in (-1, 1, 0):
        unit, length = unit_vectors(vectors, dim)
        torch.testing.assert_close(unit, F.normalize(vectors, dim=dim))
        torch.testing.assert_close(length, vectors.norm(dim=dim))


def test_gradient_of_nothing_is_zero_and_of_others_is_torchs():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-14, 0.0]], requires_grad=True)
    unit, length = unit_vectors(vectors)
    assert length.tolist() == [5.0, 0.0, 0.0]
    gradient = torch.autograd.grad((unit * torch.tensor([1.0, 2.0])).sum(), vectors)[0]
    expected = torch.autograd.grad(F.normalize(vectors[:1], dim=1) @ torch.tensor([1.0, 2.0]), vectors)[0]
    torch.testing.assert_close(gradient[0], expected[0])
    assert not gradient[1:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "loss",
    [
        SimilarityPreservingLoss(),
        lambda s, t: direction_distance(s, t).mean(),
        lambda s, t: nt_xent_loss(s.flatten(1), t.flatten(1)).mean(),
        lambda s, t: relation_agreement_loss(s.flatten(1), t.flatten(1), t.flatten(1)).mean(),
        lambda s, t: similarity_divergence(s.flatten(1), s.flatten(1), t.flatten(1), t.flatten(1)).mean(),
    ],
    ids=["similarity", "direction", "nt_xent", "relation", "divergence"],
)
def test_a_dead_image_gets_a_small_gradient(loss, dtype):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 8, 5, 7, generator=generator).to(dtype) for _ in range(2))
    student[0] = 0
    student.requires_grad_()
    loss(student, teacher).backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 1
    assert student.grad[1:].any()
