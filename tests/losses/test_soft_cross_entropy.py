"""Class-weighted cross-entropy against a teacher's probabilities."""

import math

from lad.losses import SoftCrossEntropyLoss, binary_soft_cross_entropy, soft_cross_entropy

import pytest
import torch
import torch.nn.functional as F
from helpers import fake_cuda
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.losses import CrossEntropyLoss
from mmdet.registry import MODELS

LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)
logits = st.lists(st.floats(-20, 20), min_size=6, max_size=6)


def test_hand_arithmetic():
    """P_t = (1/2, 1/4, 1/4), P_s = (1/4, 1/4, 1/2); the last class is the background with w = 1.5:
    1/2 ln 4 + 1/4 ln 4 + 1.5 * 1/4 ln 2 = (1 + 1/2 + 3/8) ln 2 = 1.875 ln 2."""
    student, teacher = torch.tensor([[0.0, 0.0, LN2]]), torch.tensor([[LN2, 0.0, 0.0]])
    weight = torch.tensor([1.0, 1.0, 1.5])
    torch.testing.assert_close(soft_cross_entropy(student, teacher, weight), torch.tensor([1.875 * LN2]))
    torch.testing.assert_close(soft_cross_entropy(student, teacher), torch.tensor([1.75 * LN2]))


def test_hand_arithmetic_of_the_binary_form():
    """p_t = 3/4, p_s = 1/2, complement with w = 1.5: 3/4 ln 2 + 1.5 * 1/4 ln 2 = 1.125 ln 2."""
    loss = binary_soft_cross_entropy(torch.tensor([0.0]), torch.tensor([LN3]), 1.0, 1.5)
    torch.testing.assert_close(loss, torch.tensor([1.125 * LN2]))


def test_temperature_divides_the_logits_and_the_option_multiplies_by_its_square():
    """Logits twice as large at T = 2 are the hand arithmetic's; 4 times it with the option."""
    student, teacher = torch.tensor([[0.0, 0.0, 2 * LN2]]), torch.tensor([[2 * LN2, 0.0, 0.0]])
    torch.testing.assert_close(
        soft_cross_entropy(student, teacher, temperature=2.0), torch.tensor([1.75 * LN2])
    )
    torch.testing.assert_close(
        soft_cross_entropy(student, teacher, temperature=2.0, rescale=True), torch.tensor([7 * LN2])
    )
    pair = torch.tensor([0.0]), torch.tensor([2 * LN3])
    torch.testing.assert_close(
        binary_soft_cross_entropy(*pair, 1.0, 1.5, temperature=2.0, rescale=True), torch.tensor([4.5 * LN2])
    )


@settings(max_examples=100)
@given(values=logits, weight=st.floats(0.1, 5))
def test_background_weight_moves_the_backgrounds_term_alone(values, weight):
    student, teacher = torch.tensor(values).view(2, 1, 3).unbind(0)
    one, other = (
        soft_cross_entropy(student, teacher, torch.tensor([1.0, 1.0, w])) for w in (1.0, 1.0 + weight)
    )
    background = -(teacher.softmax(1) * student.log_softmax(1))[:, 2]
    torch.testing.assert_close(other - one, weight * background, rtol=1e-4, atol=1e-4)


@settings(max_examples=100)
@given(student=st.floats(-20, 20), teacher=st.floats(-20, 20), weight=st.floats(0, 5))
def test_binary_form_is_softmax_with_a_background_logit_of_zero(student, teacher, weight):
    s, t = torch.tensor([[student]]), torch.tensor([[teacher]])
    two = soft_cross_entropy(F.pad(s, (0, 1)), F.pad(t, (0, 1)), torch.tensor([1.0, weight]))
    torch.testing.assert_close(binary_soft_cross_entropy(s, t, 1.0, weight)[0], two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("use_sigmoid", [False, True])
def test_certain_teacher_gives_mmdetections_loss_of_its_classes(use_sigmoid):
    student = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 1])
    teacher = F.one_hot(labels, 4) * 400.0 - 200
    expected = CrossEntropyLoss(use_sigmoid=use_sigmoid)(student, labels, avg_factor=5)
    loss = SoftCrossEntropyLoss(use_sigmoid=use_sigmoid, background_weight=1.0)(
        student, teacher, avg_factor=5
    )
    torch.testing.assert_close(loss, expected)


def test_gradient_is_the_difference_of_probabilities_and_spares_the_teacher():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4, 3, generator=generator, requires_grad=True)
    teacher = torch.randn(4, 3, generator=generator, requires_grad=True)
    soft_cross_entropy(student, teacher).sum().backward()
    torch.testing.assert_close(student.grad, (student.softmax(1) - teacher.softmax(1)).detach())
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [soft_cross_entropy, binary_soft_cross_entropy])
def test_half_precision_is_safe_at_probabilities_of_zero_and_one(loss, dtype):
    """Logits at the end of float16's range: the probabilities are 0 and 1 in any precision."""
    student = torch.tensor([[6e4, -6e4, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-6e4, 6e4, 0.0]], dtype=dtype)
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    value.sum().backward()
    assert value.isfinite().all()
    assert value.sum() > 1e5 - 1e3
    assert student.grad.isfinite().all()
    assert student.grad[0, 0] > 0 > student.grad[0, 1]
    assert loss(teacher[:, :2], teacher[:, :2]).abs().max() == 0


def test_module_weights_classes_as_its_options_say():
    student, teacher = torch.tensor([[0.0, 0.0, LN2]]), torch.tensor([[LN2, 0.0, 0.0]])
    loss = MODELS.build(dict(type="SoftCrossEntropyLoss", class_weight=(2.0, 1.0), loss_weight=3.0))
    # (2 * 1/2 ln 4 + 1/4 ln 4 + 1.5 * 1/4 ln 2) * 3
    torch.testing.assert_close(loss(student, teacher), torch.tensor(3 * (2 + 0.5 + 0.375) * LN2))
    weight = torch.tensor([1.0, 0.0])
    two = loss(student.repeat(2, 1), teacher.repeat(2, 1), weight, avg_factor=2)
    torch.testing.assert_close(two, torch.tensor(1.5 * 2.875 * LN2))
    binary = SoftCrossEntropyLoss(use_sigmoid=True, reduction="sum")
    pair = torch.zeros(1, 2), torch.full((1, 2), LN3)
    torch.testing.assert_close(binary(*pair), torch.tensor(2 * 1.125 * LN2))
    with pytest.raises(ValueError, match="3 numbers for 2 classes"):
        SoftCrossEntropyLoss(class_weight=(1.0, 1.0, 1.0))(student, teacher)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3\) \(student\) and \(2, 4\)"):
        soft_cross_entropy(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        binary_soft_cross_entropy(torch.zeros(2), torch.zeros(2), temperature=0)


def test_on_cuda_tensors_nothing_waits():
    with fake_cuda():
        student, teacher = (torch.randn(8, 4, device="cuda") for _ in range(2))
        for use_sigmoid in (False, True):
            assert SoftCrossEntropyLoss(use_sigmoid)(student, teacher).device.type == "cuda"
