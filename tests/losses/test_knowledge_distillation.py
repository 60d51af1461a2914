"""KL divergence of softened classifiers."""

import math

from lad.losses import KDLoss, binary_kl_divergence, kl_divergence, soft_cross_entropy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.losses import KnowledgeDistillationKLDivLoss
from mmdet.registry import MODELS

LN2, LN3 = math.log(2), math.log(3)
logits = st.lists(st.floats(-20, 20), min_size=8, max_size=8)
temperature = st.sampled_from([0.5, 1.0, 4.0])


def pair(values, shape=(1, 4)):
    return torch.tensor(values).view(2, *shape).unbind(0)


def test_hand_arithmetic():
    """P_t = (1/2, 1/4, 1/4), P_s = (1/4, 1/4, 1/2):  1/2 ln 2 + 0 - 1/4 ln 2 = 1/4 ln 2."""
    student, teacher = torch.tensor([[0.0, 0.0, LN2]]), torch.tensor([[LN2, 0.0, 0.0]])
    torch.testing.assert_close(kl_divergence(student, teacher), torch.tensor([0.25 * LN2]))
    # The same probabilities at T = 2 from logits twice as large, times T^2 = 4.
    torch.testing.assert_close(kl_divergence(2 * student, 2 * teacher, 2.0), torch.tensor([LN2]))


def test_hand_arithmetic_of_the_binary_form():
    """p_t = 3/4, p_s = 1/2:  3/4 ln(3/2) + 1/4 ln(1/2) = 3/4 ln 3 - ln 2 = 0.130812; at T = 2 times 4."""
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[LN3, 0.0]])
    expected = torch.tensor([[0.75 * LN3 - LN2, 0.0]])
    torch.testing.assert_close(binary_kl_divergence(student, teacher), expected)
    torch.testing.assert_close(binary_kl_divergence(2 * student, 2 * teacher, 2.0), 4 * expected)


@settings(max_examples=60)
@given(values=logits, shift=st.floats(-50, 50), t=temperature)
def test_softmax_form_is_blind_to_a_shift_and_to_the_order_of_classes_and_zero_for_equals(values, shift, t):
    student, teacher = pair(values)
    value = kl_divergence(student, teacher, t)
    assert value.item() >= -1e-5
    tolerance = dict(rtol=1e-3, atol=1e-3 * t**2)
    torch.testing.assert_close(kl_divergence(student + shift, teacher - shift, t), value, **tolerance)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(kl_divergence(student[:, order], teacher[:, order], t), value, **tolerance)
    assert kl_divergence(teacher, teacher, t).item() == 0
    assert binary_kl_divergence(teacher, teacher, t).abs().max() == 0


@settings(max_examples=60)
@given(values=logits, t=temperature)
def test_binary_form_is_softmax_with_a_logit_of_zero(values, t):
    student, teacher = pair(values, (4, 1))
    two = kl_divergence(F.pad(student, (0, 1)), F.pad(teacher, (0, 1)), t)
    torch.testing.assert_close(binary_kl_divergence(student, teacher, t)[:, 0], two, rtol=1e-3, atol=1e-4)


@settings(max_examples=30)
@given(values=logits, t=temperature)
def test_it_is_the_soft_cross_entropy_without_the_teachers_entropy(values, t):
    student, teacher = pair(values)
    cross = soft_cross_entropy(student, teacher, None, t, True) - soft_cross_entropy(
        teacher, teacher, None, t, True
    )
    torch.testing.assert_close(kl_divergence(student, teacher, t), cross, rtol=1e-3, atol=1e-3 * t**2)


def test_mmdetections_loss_is_this_one_divided_by_the_number_of_classes():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 5, generator=generator) for _ in range(2))
    peer = KnowledgeDistillationKLDivLoss(T=3)(student, teacher)
    torch.testing.assert_close(KDLoss(temperature=3.0)(student, teacher) / 5, peer)


def test_gradient_is_t_times_the_difference_of_probabilities_and_spares_the_teacher():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4, 3, generator=generator, requires_grad=True)
    teacher = torch.randn(4, 3, generator=generator, requires_grad=True)
    kl_divergence(student, teacher, 2.0).sum().backward()
    expected = 2 * ((student / 2).softmax(1) - (teacher / 2).softmax(1))
    torch.testing.assert_close(student.grad, expected.detach())
    student.grad = None
    binary_kl_divergence(student, teacher, 2.0).sum().backward()
    expected = 2 * ((student / 2).sigmoid() - (teacher / 2).sigmoid())
    torch.testing.assert_close(student.grad, expected.detach())
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [kl_divergence, binary_kl_divergence])
def test_half_precision_is_safe_at_probabilities_of_zero_and_one(loss, dtype):
    student = torch.tensor([[6e4, -6e4, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-6e4, 6e4, 0.0]], dtype=dtype)
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    value.sum().backward()
    assert value.sum() > 1e5 - 1e3
    assert value.isfinite().all()
    assert student.grad.isfinite().all()
    assert student.grad[0, 0] > 0 > student.grad[0, 1]


def test_module_obeys_its_reduction_weight_and_average():
    """Samples of 1/4 ln 2 and 0: mean 1/8 ln 2, sum 1/4 ln 2; both twice with a weight of 2."""
    student = torch.tensor([[0.0, 0.0, LN2], [LN2, 0.0, 0.0]])
    teacher = torch.tensor([[LN2, 0.0, 0.0], [LN2, 0.0, 0.0]])
    for reduction, expected in (("mean", 0.25 * LN2), ("sum", 0.5 * LN2)):
        loss = MODELS.build(dict(type="KDLoss", reduction=reduction, loss_weight=2.0))
        torch.testing.assert_close(loss(student, teacher), torch.tensor(expected))
    none = KDLoss(reduction="none")(student, teacher)
    torch.testing.assert_close(none, torch.tensor([0.25 * LN2, 0.0]))
    weighted = KDLoss()(student, teacher, weight=torch.tensor([3.0, 9.0]), avg_factor=5.0)
    torch.testing.assert_close(weighted, torch.tensor(0.15 * LN2))
    binary = KDLoss(use_sigmoid=True)(torch.zeros(1, 2), torch.full((1, 2), LN3))
    torch.testing.assert_close(binary, torch.tensor(2 * (0.75 * LN3 - LN2)))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3\) \(student\) and \(2, 4\)"):
        kl_divergence(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        binary_kl_divergence(torch.zeros(2), torch.zeros(2), 0)
