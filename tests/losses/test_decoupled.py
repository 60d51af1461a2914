"""Decoupled knowledge distillation."""

import math

from lad.losses import (
    DKDLoss,
    binary_decoupled_kd_loss,
    binary_kl_divergence,
    decoupled_kd_loss,
    kl_divergence,
)

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS

LN2, LN3 = math.log(2), math.log(3)
logits = st.lists(st.floats(-15, 15), min_size=8, max_size=8)
label = st.integers(0, 3)
temperature = st.sampled_from([0.5, 1.0, 4.0])


def pair(values):
    return torch.tensor(values).view(2, 1, 4).unbind(0)


def test_hand_arithmetic():
    """P_t = (1/2, 1/4, 1/4), P_s = (1/4, 1/4, 1/2), target 0.
    TCKD: (1/2, 1/2) against (1/4, 3/4): 1/2 ln 2 + 1/2 ln(2/3) = ln 2 - 1/2 ln 3.
    NCKD: (1/2, 1/2) against (1/3, 2/3): 1/2 ln(3/2) + 1/2 ln(3/4) = ln 3 - 3/2 ln 2."""
    student, teacher = torch.tensor([[0.0, 0.0, LN2]]), torch.tensor([[LN2, 0.0, 0.0]])
    labels = torch.tensor([0])
    tckd, nckd = LN2 - 0.5 * LN3, LN3 - 1.5 * LN2
    for alpha, beta in ((1.0, 0.0), (0.0, 1.0), (2.0, 8.0)):
        expected = torch.tensor([alpha * tckd + beta * nckd])
        torch.testing.assert_close(decoupled_kd_loss(student, teacher, labels, alpha, beta), expected)
        doubled = decoupled_kd_loss(2 * student, 2 * teacher, labels, alpha, beta, 2.0)
        torch.testing.assert_close(doubled, 4 * expected)


def test_hand_arithmetic_of_the_binary_form():
    """p_t = (3/4, 3/4), p_s = (1/2, 1/2), each class 3/4 ln 3 - ln 2; target 1 counts 2, the other 5; none: 5 + 5."""
    student, teacher = torch.zeros(2, 2), torch.full((2, 2), LN3)
    loss = binary_decoupled_kd_loss(student, teacher, torch.tensor([1, 2]), 2.0, 5.0)
    torch.testing.assert_close(loss, torch.tensor([7.0, 10.0]) * (0.75 * LN3 - LN2))


@settings(max_examples=80)
@given(values=logits, target=label, t=temperature)
def test_beta_of_one_minus_the_teachers_target_probability_recovers_plain_distillation(values, target, t):
    student, teacher = pair(values)
    labels = torch.tensor([target])
    beta = 1 - (teacher / t).softmax(1)[:, target]
    dkd = decoupled_kd_loss(student, teacher, labels, 1.0, beta, t)
    torch.testing.assert_close(dkd, kl_divergence(student, teacher, t), rtol=1e-3, atol=2e-3 * t**2)
    binary = binary_decoupled_kd_loss(student, teacher, labels, 1.0, 1.0, t)
    torch.testing.assert_close(binary, binary_kl_divergence(student, teacher, t).sum(1))


@settings(max_examples=60)
@given(values=logits, target=label, shift=st.floats(-50, 50))
def test_blind_to_a_shift_and_to_the_order_of_classes_and_zero_for_equals(values, target, shift):
    student, teacher = pair(values)
    labels = torch.tensor([target])
    value = decoupled_kd_loss(student, teacher, labels)
    assert value.item() >= -1e-5
    torch.testing.assert_close(
        decoupled_kd_loss(student + shift, teacher - shift, labels), value, rtol=1e-3, atol=1e-3
    )
    order = torch.tensor([2, 0, 3, 1])
    moved = (order == target).nonzero()[0]
    for function in (decoupled_kd_loss, binary_decoupled_kd_loss):
        own = function(student, teacher, labels)
        other = function(student[:, order], teacher[:, order], moved)
        torch.testing.assert_close(other, own, rtol=1e-3, atol=1e-3)
        assert function(teacher, teacher, labels).item() == 0


@settings(max_examples=40)
@given(values=logits, target=label, moved=st.floats(-5, 5))
def test_the_part_of_the_others_does_not_see_the_targets_logit(values, target, moved):
    student, teacher = pair(values)
    labels = torch.tensor([target])
    more = student.clone()
    more[0, target] += moved
    for function in (decoupled_kd_loss, binary_decoupled_kd_loss):
        one, two = (function(s, teacher, labels, 0.0, 1.0) for s in (student, more))
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_a_teacher_sure_of_the_target_still_teaches_the_others():
    """The paper's reason: with P_t = 1 - 2e-9 plain distillation of the other classes is all but gone, DKD's is not."""
    student = torch.tensor([[20.0, 0.0, 0.0]])
    teacher = torch.tensor([[20.0, LN3, 0.0]])
    assert kl_divergence(student, teacher).item() < 1e-8
    # (3/4, 1/4) against (1/2, 1/2): 3/4 ln 3 - ln 2.
    loss = decoupled_kd_loss(student, teacher, torch.tensor([0]), 1.0, 1.0)
    torch.testing.assert_close(loss, torch.tensor([0.75 * LN3 - LN2]), rtol=1e-4, atol=1e-6)


def test_gradient_moves_the_student_to_the_teacher_and_spares_it():
    student = torch.zeros(1, 3, requires_grad=True)
    teacher = torch.tensor([[2.0, 1.0, -1.0]], requires_grad=True)
    for function in (decoupled_kd_loss, binary_decoupled_kd_loss):
        student.grad = None
        function(student, teacher, torch.tensor([0])).sum().backward()
        assert student.grad[0, 0] < 0 < student.grad[0, 2]
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("target", [0, 1, 2])
@pytest.mark.parametrize("loss", [decoupled_kd_loss, binary_decoupled_kd_loss])
def test_half_precision_is_safe_at_probabilities_of_zero_and_one(loss, target, dtype):
    student = torch.tensor([[6e4, -6e4, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-6e4, 6e4, 0.0]], dtype=dtype)
    value = loss(student, teacher, torch.tensor([target]), 1.0, 1.0)
    assert value.dtype == torch.float32
    value.sum().backward()
    assert value.isfinite().all()
    assert value.sum() > 5e4
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() > 0


def test_module_obeys_its_reduction_weight_and_average():
    """Samples of ln 2 - 1/2 ln 3 =: a (target 0, alpha 1, beta 0) and 0."""
    student = torch.tensor([[0.0, 0.0, LN2], [LN2, 0.0, 0.0]])
    teacher = torch.tensor([[LN2, 0.0, 0.0], [LN2, 0.0, 0.0]])
    labels, a = torch.tensor([0, 1]), LN2 - 0.5 * LN3
    for reduction, expected in (("mean", 1.5 * a), ("sum", 3 * a)):
        loss = MODELS.build(dict(type="DKDLoss", beta=0.0, reduction=reduction, loss_weight=3.0))
        torch.testing.assert_close(loss(student, teacher, labels), torch.tensor(expected))
    none = DKDLoss(beta=0.0, reduction="none")(student, teacher, labels)
    torch.testing.assert_close(none, torch.tensor([a, 0.0]))
    weighted = DKDLoss(beta=0.0)(student, teacher, labels, weight=torch.tensor([3.0, 9.0]), avg_factor=5.0)
    torch.testing.assert_close(weighted, torch.tensor(0.6 * a))
    binary = DKDLoss(use_sigmoid=True, alpha=2.0, beta=5.0)
    value = binary(torch.zeros(1, 2), torch.full((1, 2), LN3), torch.tensor([1]))
    torch.testing.assert_close(value, torch.tensor(7 * (0.75 * LN3 - LN2)))


def test_samples_without_a_target_cost_nothing_and_have_no_gradient():
    """Background of a classifier without a channel for it: label 3 (and -1) of three classes."""
    student = torch.tensor([[0.0, 0.0, LN2], [5.0, -60.0, 2.0], [9.0, 1.0, -2.0]], requires_grad=True)
    teacher = torch.tensor([[LN2, 0.0, 0.0], [-3.0, 7.0, 1.0], [0.0, 80.0, 4.0]])
    loss = decoupled_kd_loss(student, teacher, torch.tensor([0, 3, -1]), alpha=2.0, beta=5.0)
    torch.testing.assert_close(
        loss[:1], decoupled_kd_loss(student[:1], teacher[:1], torch.tensor([0]), 2.0, 5.0)
    )
    assert loss[0] > 0
    assert loss[1:].tolist() == [0, 0]
    loss.sum().backward()
    assert student.grad[0].abs().sum() > 0
    assert not student.grad[1:].any()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"need \(n, C\) logits and \(n,\) labels, got \(2, 3\) and \(3,\)"):
        decoupled_kd_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3).long())
    with pytest.raises(ValueError, match="needs 2 classes"):
        decoupled_kd_loss(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2).long())
    with pytest.raises(ValueError, match="temperature must be positive"):
        decoupled_kd_loss(torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2).long(), temperature=-1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("label", [3, -1, 80])
def test_samples_without_a_target_have_no_gradient_whatever_their_logits_are(value, side, label):
    student, teacher = torch.tensor([[1.0, 0.0, LN2], [4.0, 1.0, 0.0]]), torch.tensor([[LN2, 0.0, 0.0]] * 2)
    dict(student=student, teacher=teacher)[side][1, 1] = value
    student.requires_grad_()
    loss = decoupled_kd_loss(student, teacher, torch.tensor([0, label]))
    assert loss[1].item() == 0
    loss.sum().backward()
    assert student.grad[1].tolist() == [0, 0, 0]
    alone = student[:1].detach().clone().requires_grad_()
    decoupled_kd_loss(alone, teacher[:1], torch.tensor([0])).sum().backward()
    assert torch.equal(student.grad[:1], alone.grad)
