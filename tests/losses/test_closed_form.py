"""Losses in blocks of rows: the same as in one, whatever the number of rows, classes and dimensions."""

from lad.losses import KDLoss, QualityKDLoss, binary_kl_divergence, closed_form, quality_kd_loss

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

LOSSES = {
    "quality": (QualityKDLoss(beta=1.5, reduction="none"), lambda s, t: quality_kd_loss(s, t, 1.5)),
    "divergence": (
        KDLoss(use_sigmoid=True, temperature=2.0, reduction="none"),
        lambda s, t: binary_kl_divergence(s, t, 2.0),
    ),
}


def values(function, student, teacher, weight):
    """Values and the student's gradient of their weighted sum."""
    student = student.clone().requires_grad_()
    found = function(student, teacher)
    (found * weight).sum().backward()
    return found.detach(), student.grad


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=40)
@given(shape=st.lists(st.integers(0, 9), min_size=1, max_size=3), block=st.integers(1, 40))
def test_blocks_give_the_sums_and_gradients_of_the_loss_of_each_element(name, shape, block):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(2, *shape, generator=generator)).unbind()
    weight = torch.rand(shape[:-1], generator=generator)
    in_rows, of_elements = LOSSES[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_form, "CPU_BLOCK", block)
        found = values(in_rows, student, teacher, weight)
    expected = values(lambda s, t: of_elements(s, t).sum(dim=-1), student, teacher, weight)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_logits_may_lie_in_memory_with_the_classes_outermost(name):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(2, 6, 4, 5, generator=generator)).unbind()
    weight = torch.rand(6, 5, generator=generator)
    loss, _ = LOSSES[name]
    found = values(loss, student.transpose(1, 2), teacher.transpose(1, 2), weight)
    expected = values(
        loss, student.transpose(1, 2).contiguous(), teacher.transpose(1, 2).contiguous(), weight
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_prepared_logits_are_taken_in_the_same_blocks(block, monkeypatch):
    monkeypatch.setattr(closed_form, "CPU_BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(2, 11, 4, generator=generator)).unbind()
    loss, weight = QualityKDLoss(reduction="none"), torch.ones(11)
    plain = values(loss, student, teacher, weight)
    prepared = values(lambda s, t: loss(loss.prepare(s), loss.prepare(t)), student, teacher, weight)
    torch.testing.assert_close(plain, prepared)


def test_no_block_is_larger_than_allowed_unless_a_row_is(monkeypatch):
    seen = []

    def terms(student, teacher, derivative):
        seen.append(tuple(student.shape))
        derivative.fill_(1)
        return student - teacher

    for block in (12, 3):
        monkeypatch.setattr(closed_form, "CPU_BLOCK", block)
        torch.testing.assert_close(
            closed_form.row_losses(terms, torch.ones(5, 4), torch.zeros(5, 4)), torch.full((5,), 4.0)
        )
    assert seen == [(3, 4), (2, 4)] + 5 * [(1, 4)]
