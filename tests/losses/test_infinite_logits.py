"""Infinite logits of a teacher: the losses have their limit there."""

import math

from lad.losses import (
    binary_decoupled_kd_loss,
    binary_kl_divergence,
    binary_soft_cross_entropy,
    decoupled_kd_loss,
    focal_kl_loss,
    kl_divergence,
    localisation_distillation_loss,
    quality_kd_loss,
    soft_cross_entropy,
)

import pytest
import torch

INF = math.inf
STUDENT = [0.5, -1.0, 2.0, 0.0]
#: Logits of a softmax with infinite ones, and the logits that give the same distribution.
SOFTMAX = [
    ([INF, 0.0, 1.0, 2.0], [1000.0, 0.0, 1.0, 2.0]),
    ([-INF, 0.0, 1.0, 2.0], [-1000.0, 0.0, 1.0, 2.0]),
    ([INF, INF, 1.0, 2.0], [1000.0, 1000.0, 1.0, 2.0]),
    ([0.0, INF, -INF, 3.0], [0.0, 1000.0, -1000.0, 3.0]),
    ([1.0, -INF, -INF, -INF], [1.0, -1000.0, -1000.0, -1000.0]),
    ([INF] * 4, [0.0] * 4),
    ([-INF] * 4, [0.0] * 4),
]


def check(function, infinite, limit, dtype, shape):
    """Value and gradient are those of finite logits at the limit, in float64."""
    student = torch.tensor(STUDENT, dtype=dtype).view(shape).requires_grad_()
    loss = function(student, torch.tensor(infinite, dtype=dtype).view(shape))
    reference = torch.tensor(STUDENT, dtype=torch.float64).view(shape).requires_grad_()
    expected = function(reference, torch.tensor(limit, dtype=torch.float64).view(shape))
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    loss.sum().backward()
    expected.sum().backward()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(student.grad.double(), reference.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("infinite", "limit"), SOFTMAX)
@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])
def test_softmax_losses(infinite, limit, dtype, temperature):
    def localisation(student, teacher):
        return localisation_distillation_loss(student.expand(1, 4, -1), teacher.expand(1, 4, -1), temperature)

    check(lambda s, t: kl_divergence(s, t, temperature), infinite, limit, dtype, (1, 4))
    check(lambda s, t: soft_cross_entropy(s, t, None, temperature), infinite, limit, dtype, (1, 4))
    check(localisation, infinite, limit, dtype, (1, 1, 4))
    for label in range(4):
        labels = torch.tensor([label])
        check(
            lambda s, t, labels=labels: decoupled_kd_loss(s, t, labels, 1.0, 2.0, temperature),
            infinite,
            limit,
            dtype,
            (1, 4),
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])
@pytest.mark.parametrize("infinite", [[INF, -INF, 1.0, 0.0], [INF] * 4, [-INF] * 4, [0.0, INF, INF, -INF]])
def test_sigmoid_losses(infinite, dtype, temperature):
    limit = [max(min(value, 1000.0), -1000.0) for value in infinite]
    labels = torch.tensor([1])
    for function in (
        lambda s, t: binary_kl_divergence(s, t, temperature),
        lambda s, t: binary_soft_cross_entropy(s, t, 1.0, 1.5, temperature),
        lambda s, t: binary_decoupled_kd_loss(s, t, labels, 1.0, 2.0, temperature),
        focal_kl_loss,
        quality_kd_loss,
    ):
        check(function, infinite, limit, dtype, (1, 4))


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_nan_stays_nan(side):
    logits = dict(student=torch.tensor([STUDENT]), teacher=torch.tensor([[INF, 0.0, 1.0, 2.0]]))
    logits[side][0, 1] = math.nan
    assert kl_divergence(**logits).isnan().all()
    assert decoupled_kd_loss(**logits, labels=torch.tensor([0])).isnan().all()
    assert binary_kl_divergence(**logits).isnan().tolist() == [[False, True, False, False]]
    assert focal_kl_loss(**logits).isnan().tolist() == [[False, True, False, False]]
