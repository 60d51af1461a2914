"""Localisation distillation of edge distributions."""

import math

from lad.losses import LDLoss, localisation_distillation_loss

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.losses import KnowledgeDistillationKLDivLoss

LN2 = math.log(2)


def test_hand_arithmetic():
    """One edge of four: P_t = (1/2, 1/4, 1/4), P_s = (1/4, 1/4, 1/2), KL 1/4 ln 2; the others agree. At T = 1 a
    quarter of it, over 3 bins; at T = 10 from logits ten times as large 100 times that."""
    student, teacher = torch.zeros(1, 4, 3), torch.zeros(1, 4, 3)
    student[0, 2, 2] = teacher[0, 2, 0] = LN2
    loss = localisation_distillation_loss(student, teacher, 1.0)
    torch.testing.assert_close(loss, torch.tensor([0.25 * LN2 / 4 / 3]))
    loss = localisation_distillation_loss(10 * student, 10 * teacher)
    torch.testing.assert_close(loss, torch.tensor([100 * 0.25 * LN2 / 4 / 3]))
    loss = localisation_distillation_loss(student, teacher, 1.0, average_bins=False)
    torch.testing.assert_close(loss, torch.tensor([0.25 * LN2 / 4]))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_equals_mmdetections_loss_of_single_edges_averaged_over_four(reduction):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 4, 17, generator=generator) * 3 for _ in range(2))
    peer = KnowledgeDistillationKLDivLoss(reduction=reduction, loss_weight=0.25, T=10)
    expected = peer(student.view(-1, 17), teacher.view(-1, 17))
    own = LDLoss(reduction=reduction, loss_weight=0.25)(student, teacher)
    if reduction != "mean":
        expected = expected.view(5, 4).mean(1) if reduction == "none" else expected / 4
    torch.testing.assert_close(own, expected)


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), shift=st.floats(-20, 20))
def test_blind_to_a_shift_of_an_edges_logits_and_to_the_order_of_edges_and_zero_for_equals(seed, shift):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2, 4, 5, generator=generator) * 5 for _ in range(2))
    value = localisation_distillation_loss(student, teacher, 2.0)
    assert value.min() >= 0
    shifted = student + shift * torch.tensor([1.0, 0.0, -1.0, 2.0])[:, None]
    close = dict(rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(localisation_distillation_loss(shifted, teacher, 2.0), value, **close)
    order = torch.tensor([3, 1, 0, 2])
    moved = localisation_distillation_loss(student[:, order], teacher[:, order], 2.0)
    torch.testing.assert_close(moved, value, **close)
    assert localisation_distillation_loss(teacher, teacher).abs().max() == 0


def test_gradient_moves_the_student_to_the_teacher_and_spares_it():
    student = torch.zeros(1, 4, 3, requires_grad=True)
    teacher = torch.zeros(1, 4, 3)
    teacher[:, :, 1] = 2.0
    teacher.requires_grad_()
    localisation_distillation_loss(student, teacher).sum().backward()
    assert (student.grad[:, :, 1] < 0).all()
    assert (student.grad[:, :, 0] > 0).all()
    assert teacher.grad is None


def test_half_precision_is_safe_at_its_end():
    student = torch.full((1, 4, 3), -6e4, dtype=torch.float16)
    student[:, :, 0] = 6e4
    student.requires_grad_()
    value = localisation_distillation_loss(student, student.detach().flip(2), 1.0)
    value.sum().backward()
    assert value.dtype == torch.float32
    assert value.isfinite().all()
    assert value > 1e4
    assert student.grad.isfinite().all()


def test_weight_and_average_are_obeyed():
    student, teacher = torch.zeros(2, 4, 3), torch.zeros(2, 4, 3)
    student[:, 2, 2] = teacher[:, 2, 0] = LN2
    one = 0.25 * LN2 / 12
    loss = LDLoss(temperature=1.0, loss_weight=2.0)
    value = loss(student, teacher, weight=torch.tensor([3.0, 0.0]), avg_factor=2.0)
    torch.testing.assert_close(value, torch.tensor(3 * one))


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"need \(n, 4, bins\) logits of the edges, got \(4, 17\)"):
        localisation_distillation_loss(torch.zeros(4, 17), torch.zeros(4, 17))
