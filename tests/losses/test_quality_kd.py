"""Quality focal loss against a teacher's probabilities."""

import copy
import math

from lad.losses import QualityKDLoss, quality_kd_loss
from lad.losses.binary_logits import BinaryLogits

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.losses import QualityFocalLoss

LN2, LN3 = math.log(2), math.log(3)


def test_hand_arithmetic():
    """p_t = 3/4, p_s = 1/2: |1/4|^beta ln 2, whatever the target, because log p_s = log(1 - p_s) = -ln 2."""
    student, teacher = torch.tensor([0.0]), torch.tensor([LN3])
    torch.testing.assert_close(quality_kd_loss(student, teacher), torch.tensor([LN2 / 4]))
    torch.testing.assert_close(quality_kd_loss(student, teacher, 2.0), torch.tensor([LN2 / 16]))


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_value_and_gradient_are_mmdetections_with_probabilities_as_targets(beta):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(7, 4, generator=generator) * 3 for _ in range(2))
    student.requires_grad_()
    peer = QualityFocalLoss(beta=beta, loss_weight=2.0)(student, teacher.sigmoid())
    own = QualityKDLoss(beta=beta, loss_weight=2.0)(student, teacher)
    torch.testing.assert_close(own, peer)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in (own, peer)))


@settings(max_examples=80)
@given(student=st.floats(-30, 30), teacher=st.floats(-30, 30), beta=st.sampled_from([1.0, 2.0]))
def test_not_negative_zero_for_equals_and_the_same_with_classes_swapped(student, teacher, beta):
    s, t = torch.tensor([student]), torch.tensor([teacher])
    value = quality_kd_loss(s, t, beta).item()
    assert value >= 0
    assert quality_kd_loss(t, t, beta).item() == 0
    assert quality_kd_loss(-s, -t, beta).item() == pytest.approx(value, rel=1e-3, abs=1e-5)


def test_gradient_moves_the_student_towards_the_teacher_and_never_reaches_it():
    student = torch.tensor([0.0, 0.0, 1.0], requires_grad=True)
    teacher = torch.tensor([2.0, -2.0, 1.0], requires_grad=True)
    quality_kd_loss(student, teacher).sum().backward()
    assert student.grad[0] < 0 < student.grad[1]
    assert student.grad[2] == 0
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_certain_predictions_are_finite_with_finite_gradients(dtype):
    extremes = torch.tensor([-60000.0, -100.0, 0.0, 100.0, 60000.0]).to(dtype)
    student = extremes.repeat_interleave(5).requires_grad_()
    loss = quality_kd_loss(student, extremes.repeat(5))
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert loss.max() > 5e4
    loss.sum().backward()
    assert student.grad.isfinite().all()


def test_float64_is_exact_to_its_last_digits_where_float32_sees_the_logit_alone():
    student = torch.tensor([22.0, 30.0, 45.0], dtype=torch.float64)
    found = quality_kd_loss(student, torch.full_like(student, 3.0))
    # -log(p_s) = log1p(exp(-z)), which is 3e-10 of a logit of 22.
    target, miss = torch.full_like(student, 3.0).sigmoid(), (-student).exp()
    expected = (student.sigmoid() - target) * (
        target * miss.log1p() + (1 - target) * (student + miss.log1p())
    )
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_module_sums_classes_and_obeys_reduction_weight_and_average():
    student, teacher = torch.zeros(2, 3), torch.full((2, 3), LN3)
    one = 3 * LN2 / 4
    torch.testing.assert_close(QualityKDLoss(reduction="sum")(student, teacher), torch.tensor(2 * one))
    torch.testing.assert_close(QualityKDLoss()(student, teacher), torch.tensor(one))
    weighted = QualityKDLoss()(student, teacher, weight=torch.tensor([2.0, 0.0]), avg_factor=4.0)
    torch.testing.assert_close(weighted, torch.tensor(one / 2))


def test_beta_and_shapes_are_checked():
    with pytest.raises(ValueError, match=r"beta must be at least 1, got 0\.5"):
        QualityKDLoss(beta=0.5)
    with pytest.raises(ValueError, match=r"shape \(2,\) \(student\) and \(3,\)"):
        quality_kd_loss(torch.zeros(2), torch.zeros(3))


@pytest.mark.parametrize("beta", [1.0, 1.5, 2.0])
def test_prepared_logits_give_the_same_bits(beta):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(2, 50, 4, generator=generator)).unbind()
    results = []
    for prepare in (lambda logits: logits, QualityKDLoss.prepare):
        own = student.clone().requires_grad_()
        loss = QualityKDLoss(beta)(prepare(own), prepare(teacher))
        loss.backward()
        results.append((loss.detach(), own.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("beta", [1.0, 1.5, 3.0])
def test_gradient_is_that_of_the_formula_written_in_torch(beta):
    generator = torch.Generator().manual_seed(1)
    student, teacher = (3 * torch.randn(2, 200, generator=generator, dtype=torch.float64)).unbind()
    found, expected = student.clone().requires_grad_(), student.clone().requires_grad_()
    weight = torch.rand(200, generator=generator, dtype=torch.float64)
    (weight * quality_kd_loss(found, teacher, beta)).sum().backward()
    distance = (teacher.sigmoid() - expected.sigmoid()).abs()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        expected, teacher.sigmoid(), reduction="none"
    )
    (weight * distance**beta * entropy).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-10, atol=1e-12)


def test_prepared_logits_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="logits of shape"):
        quality_kd_loss(QualityKDLoss.prepare(torch.zeros(2)), QualityKDLoss.prepare(torch.zeros(3)))


@pytest.mark.parametrize(("make", "tensors"), [(torch.clone, torch.as_tensor), (BinaryLogits.of, vars)])
def test_what_it_compares_is_not_overwritten(make, tensors):
    operands = [make(torch.randn(5, 7)) for _ in range(2)]
    kept = copy.deepcopy(operands)
    QualityKDLoss()(*operands)
    torch.testing.assert_close(list(map(tensors, operands)), list(map(tensors, kept)), rtol=0, atol=0)
