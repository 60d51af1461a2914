"""Not-true divergence against hand arithmetic, the paper's formula and the plain divergences."""

import math

from lad.losses import binary_kl_divergence, binary_not_true_divergence, kl_divergence, not_true_divergence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def reference(student, teacher, labels, temperature):
    """The paper's: both without the true class, sample by sample; PyTorch's KL of log-probabilities."""
    values = []
    for own, taught, label in zip(student.double(), teacher.double(), labels.tolist(), strict=True):
        kept = [c for c in range(len(own)) if c != label]
        log_own = (own[kept] / temperature).log_softmax(0)
        values.append(
            temperature**2 * F.kl_div(log_own, (taught[kept] / temperature).softmax(0), reduction="sum")
        )
    return torch.stack(values)


def test_by_hand():
    """Without class 0 the global model says (1/4, 3/4) and the client (1/2, 1/2)."""
    student = torch.tensor([[7.0, 0.0, 0.0]])
    teacher = torch.tensor([[-3.0, 0.0, math.log(3.0)]])
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    value = not_true_divergence(student, teacher, torch.tensor([0]))
    torch.testing.assert_close(value, torch.tensor([expected]))


def test_binary_by_hand():
    """Class 0 is true; of class 1 the global model says 3/4 and the client 1/2."""
    value = binary_not_true_divergence(
        torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([0])
    )
    torch.testing.assert_close(value, torch.tensor([0.75 * math.log(1.5) + 0.25 * math.log(0.5)]))


@given(st.integers(0, 1000), st.sampled_from([0.5, 1.0, 3.0]), st.integers(2, 9))
def test_is_the_papers(seed, temperature, classes):
    student, teacher = 3 * normal(seed, 6, classes), 3 * normal(seed + 1, 6, classes)
    labels = torch.arange(6) % classes
    value = not_true_divergence(student, teacher, labels, temperature)
    expected = reference(student, teacher, labels, temperature).float()
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_true_class_changes_nothing_and_gets_no_gradient():
    student, teacher, labels = normal(0, 5, 4), normal(1, 5, 4), torch.tensor([0, 1, 2, 3, 0])
    for function in (not_true_divergence, binary_not_true_divergence):
        own = student.clone().requires_grad_()
        taught = teacher.clone().requires_grad_()
        value = function(own, taught, labels)
        value.sum().backward()
        assert taught.grad is None
        is_true = F.one_hot(labels, 4).bool()
        assert not own.grad[is_true].any()
        assert own.grad[~is_true].abs().min() > 0
        assert torch.equal(function(student + 100.0 * is_true, teacher - 50.0 * is_true, labels), value)


@pytest.mark.parametrize("outside", [-1, 4, 255])
def test_label_outside_of_the_classes_leaves_none_out(outside):
    student, teacher, labels = normal(0, 5, 4), normal(1, 5, 4), torch.full((5,), outside)
    torch.testing.assert_close(
        not_true_divergence(student, teacher, labels, 2.0), kl_divergence(student, teacher, 2.0)
    )
    torch.testing.assert_close(
        binary_not_true_divergence(student, teacher, labels, 2.0),
        binary_kl_divergence(student, teacher, 2.0).sum(1),
    )


def test_two_classes_leave_one_which_is_certain():
    value = not_true_divergence(normal(0, 3, 2), normal(1, 3, 2), torch.tensor([0, 1, 0]))
    assert torch.equal(value, torch.zeros(3))


def test_extreme_and_half_precision_logits_stay_finite():
    student = torch.tensor([[3e4, -3e4, 1.0, 0.0]], dtype=torch.half, requires_grad=True)
    teacher = torch.tensor([[-3e4, 3e4, 0.0, torch.inf]])
    for function in (not_true_divergence, binary_not_true_divergence):
        value = function(student, teacher.half(), torch.tensor([1]))
        assert value.dtype == torch.float32
        [gradient] = torch.autograd.grad(value.sum(), student)
        assert value.isfinite().all()
        assert gradient.isfinite().all()


def test_no_sample_and_wrong_shapes():
    assert not_true_divergence(
        torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
    ).shape == (0,)
    with pytest.raises(ValueError, match="shape"):
        not_true_divergence(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))
