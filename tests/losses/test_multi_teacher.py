"""Several teachers: gates, attention and fusion by hand, gradients, and the order of teachers."""

import math

from lad.losses import (
    attention_temperature,
    contrastive_attention,
    fuse_scores,
    gate_scores,
    known_divergence,
)

import pytest
import torch
import torch.nn.functional as F
from helpers import fake_cuda
from hypothesis import given
from hypothesis import strategies as st


def scores(seed, queries=3, teachers=3, candidates=5):
    """Student, teachers, gates and what is known (each candidate by one teacher at least), float64."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(queries, candidates, generator=generator, dtype=torch.float64) * 2
    taught = torch.randn(queries, teachers, candidates, generator=generator, dtype=torch.float64) * 2
    gates = torch.randn(queries, teachers, candidates, generator=generator, dtype=torch.float64)
    known = torch.rand(queries, teachers, candidates, generator=generator) < 0.6
    known[:, 0, :2], known[:, 1, 2:] = True, True
    return student, taught, gates, known


def written_out(student, taught, gates, known, temperature):
    """Weights and fused score of one query by loops over the definitions; unknown candidates are taken out."""
    gated = [
        [(1 / (1 + math.exp(-g))) * s for g, s in zip(*own, strict=True)]
        for own in zip(gates, taught, strict=True)
    ]
    divergences = []
    for own, knows in zip(gated, known, strict=True):
        chosen = [k for k, it in enumerate(knows) if it]
        p = torch.tensor([student[k] for k in chosen], dtype=torch.float64).softmax(0)
        q = torch.tensor([own[k] for k in chosen], dtype=torch.float64).softmax(0)
        divergences.append(sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True)))
    weights, fused = [], []
    for k in range(len(student)):
        raw = [
            math.exp(-d / temperature) if knows[k] else 0 for d, knows in zip(divergences, known, strict=True)
        ]
        weights.append([value / sum(raw) for value in raw])
        fused.append(sum(w * own[k] for w, own in zip(weights[-1], gated, strict=True)))
    return torch.tensor(weights).T, torch.tensor(fused, dtype=torch.float64)


def test_one_query_of_two_teachers_by_hand():
    """The student's odds are 1:1. Teacher a agrees, b has 1:3 once its gate of 1/2 has halved ln 9.

    KL((1/2, 1/2) || (1/4, 3/4)) = 1/2 ln 2 + 1/2 ln 2/3 = 1/2 ln 4/3, so that b's weight is (3/4)^(1/2) times a's.
    """
    ln9 = math.log(9)
    student = torch.zeros(1, 2)
    gated = gate_scores(torch.tensor([[[2.0, 2.0], [0.0, ln9]]]), torch.zeros(1, 2, 1))
    torch.testing.assert_close(gated, torch.tensor([[[1.0, 1.0], [0.0, math.log(3)]]]))
    ratio = math.sqrt(3 / 4)
    weights = torch.tensor([1 / (1 + ratio), ratio / (1 + ratio)])
    found = contrastive_attention(student, gated)
    torch.testing.assert_close(found, weights[None, :, None].expand(1, 2, 2))
    expected = [weights[0].item(), weights[0].item() + weights[1].item() * math.log(3)]
    torch.testing.assert_close(fuse_scores(gated, found), torch.tensor([expected]))
    # At twice the temperature the fourth root.
    warm = contrastive_attention(student, gated, temperature=2.0)
    assert (warm[0, 1, 0] / warm[0, 0, 0]).item() == pytest.approx((3 / 4) ** 0.25)


@pytest.mark.parametrize("seed", range(5))
def test_weights_and_fused_scores_are_those_of_the_definition(seed):
    student, taught, gates, known = scores(seed)
    gated = gate_scores(taught, gates)
    weights = contrastive_attention(student, gated, 1.5, known)
    fused = fuse_scores(gated, weights)
    for query in range(len(student)):
        own = [tensor[query].tolist() for tensor in (student, taught, gates, known)]
        expected, score = written_out(*own, 1.5)
        torch.testing.assert_close(weights[query], expected.double(), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(fused[query], score, rtol=1e-6, atol=1e-8)


def test_divergence_on_known_candidates_is_that_of_the_known_ones_alone():
    student, taught, _, known = scores(0)
    found = known_divergence(student[:, None].expand_as(taught), taught, known, temperature=2.0)
    for query in range(3):
        for teacher in range(3):
            chosen = known[query, teacher]
            own, other = student[query, chosen] / 2, taught[query, teacher, chosen] / 2
            expected = 4 * F.kl_div(own.log_softmax(0), other.softmax(0), reduction="sum")
            torch.testing.assert_close(found[query, teacher], expected)


def test_divergence_of_nothing_known_is_zero_with_a_gradient_of_zero():
    student = torch.randn(2, 4, requires_grad=True)
    known = torch.tensor([[True, True, False, False], [False] * 4])
    found = known_divergence(student, torch.randn(2, 4), known)
    assert found[0] > 0
    assert found[1] == 0
    found.sum().backward()
    assert student.grad[1].tolist() == [0] * 4
    assert student.grad[0, 2:].tolist() == [0, 0]
    assert (student.grad[0, :2] != 0).all()


def test_unknown_candidates_have_no_weight_and_no_say():
    student, taught, gates, known = scores(1)
    gated = gate_scores(taught, gates)
    weights = contrastive_attention(student, gated, 1.0, known)
    assert (weights[~known] == 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(3, 5, dtype=torch.float64))
    other = torch.where(known, gated, 1e3)
    torch.testing.assert_close(contrastive_attention(student, other, 1.0, known), weights)
    nobody = known.clone()
    nobody[:, :, 4] = False
    assert (contrastive_attention(student, gated, 1.0, nobody)[:, :, 4] == 0).all()


def test_far_away_teachers_leave_the_others_their_weights():
    """Divergences that overflow an exponential: the weight at a candidate that only the far one knows is still 1."""
    student = torch.zeros(1, 3)
    taught = torch.tensor([[[0.0, 0.0, 0.0], [9e3, -9e3, 0.0]]])
    known = torch.tensor([[[True, False, True], [True, True, False]]])
    weights = contrastive_attention(student, taught, 1.0, known)
    assert weights.tolist() == [[[1, 0, 1], [0, 1, 0]]]


@given(st.integers(0, 10**6), st.permutations(range(4)))
def test_teachers_in_another_order_have_the_same_weights_and_fuse_to_the_same_score(seed, order):
    student, taught, gates, known = scores(seed, teachers=4)
    gated = gate_scores(taught, gates)
    weights = contrastive_attention(student, gated, 2.0, known)
    moved = contrastive_attention(student, gated[:, order], 2.0, known[:, order])
    torch.testing.assert_close(moved, weights[:, order])
    torch.testing.assert_close(fuse_scores(gated[:, order], moved), fuse_scores(gated, weights))


@given(st.integers(0, 10**6))
def test_attention_is_an_average_that_tends_to_the_plain_mean(seed):
    student, taught, gates, _ = scores(seed)
    gated = gate_scores(taught, gates)
    fused = fuse_scores(gated, contrastive_attention(student, gated))
    assert (fused <= gated.amax(1) + 1e-9).all()
    assert (fused >= gated.amin(1) - 1e-9).all()
    warm = fuse_scores(gated, contrastive_attention(student, gated, 1e9))
    torch.testing.assert_close(warm, gated.mean(1), rtol=1e-6, atol=1e-6)


def test_a_constant_added_to_a_teachers_scores_changes_no_weight():
    student, taught, _, known = scores(2)
    shift = torch.tensor([3.0, -7.0, 0.5])[None, :, None]
    found = contrastive_attention(student, taught + shift, 1.0, known)
    torch.testing.assert_close(found, contrastive_attention(student, taught, 1.0, known))


def test_gates_learn_from_the_fused_score_and_neither_student_nor_teachers_do():
    student, taught, gates, known = scores(3)
    for tensor in (student, taught, gates):
        tensor.requires_grad_()
    gated = gate_scores(taught, gates)
    weights = contrastive_attention(student, gated, 1.0, known)
    assert not weights.requires_grad
    fused = fuse_scores(gated, weights)
    targets = (torch.arange(5) == 1).double().expand(3, 5)
    F.binary_cross_entropy_with_logits(fused, targets, reduction="sum").backward()
    # By the chain rule: dL/ds w s_m sigma'(g), the weights being constant.
    sigma = gates.detach().sigmoid()
    slope = (fused.detach().sigmoid() - targets)[:, None] * weights * taught.detach() * sigma * (1 - sigma)
    torch.testing.assert_close(gates.grad, slope)
    assert student.grad is None
    assert taught.grad is None


def test_gradient_of_the_divergence_is_that_of_differences_and_reaches_the_student_alone():
    student, taught, _, known = scores(4)
    fused = taught[:, 0].clone().requires_grad_()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda own: known_divergence(own, fused, known[:, 0], 2.0), (student,))
    known_divergence(student, fused, known[:, 0]).sum().backward()
    assert fused.grad is None


def test_temperature_rises_every_five_epochs_to_its_bound():
    assert [attention_temperature(epoch) for epoch in (0, 4, 5, 9, 20)] == [
        1,
        1,
        math.e,
        math.e,
        math.exp(4),
    ]
    assert attention_temperature(20, maximum=3.0) == 3
    assert attention_temperature(3, every=1) == math.exp(3)
    assert math.isfinite(attention_temperature(10**6))


def test_temperatures_that_are_not_positive_are_refused():
    student, taught, *_ = scores(0)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        contrastive_attention(student, taught, 0.0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        known_divergence(student, student, temperature=-1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_cast_up(dtype):
    student, taught, gates, known = (
        tensor.to(dtype if tensor.is_floating_point() else tensor.dtype) for tensor in scores(5)
    )
    gated = gate_scores(taught, gates.float())
    assert gated.dtype == torch.float32
    assert contrastive_attention(student, gated, 1.0, known).dtype == torch.float32
    found = known_divergence(student, taught[:, 0], known[:, 0])
    torch.testing.assert_close(found, known_divergence(student.float(), taught[:, 0].float(), known[:, 0]))


def test_on_cuda_tensors_nothing_waits():
    with fake_cuda():
        student, taught = (torch.randn(*shape, device="cuda") for shape in ((2, 5), (2, 3, 5)))
        known = torch.ones(2, 3, 5, dtype=torch.bool, device="cuda")
        gated = gate_scores(taught, torch.ones(1, 3, 1, device="cuda"))
        fused = fuse_scores(gated, contrastive_attention(student, gated, 1.0, known))
        assert (fused.device.type, fused.shape) == ("cuda", (2, 5))
        assert known_divergence(student, fused, known.any(1)).shape == (2,)


@pytest.mark.parametrize("temperature", [math.e, 1.0, 0.25])
def test_bad_teacher_beside_two_good_ones_weighs_less_than_a_tenth_from_1_5_temperatures_on(temperature):
    """Two teachers agree with the student, of the third the KL is d: its weight is e^(-d/T) / (2 + e^(-d/T)).

    That is 0.1 at e^(-d/T) = 2/9, d = 1.504 T. KL((1/2, 1/2) || (p, 1 - p)) = -log(4 p (1 - p)) / 2.
    """
    student = torch.zeros(1, 2, dtype=torch.float64)
    weights = []
    for factor in (1.45, 1.504, 1.55):
        p = (1 - math.sqrt(1 - math.exp(-2 * factor * temperature))) / 2
        bad = torch.tensor([[0.0, math.log((1 - p) / p)]], dtype=torch.float64)
        teachers = torch.stack([student, student, bad], dim=1)
        weights.append(contrastive_attention(student, teachers, temperature)[0, 2, 0].item())
    assert weights[0] > 0.1 > weights[2]
    assert weights[1] == pytest.approx(0.1, abs=1e-4)
