"""Teacher-bounded regression."""

from lad.losses import BoundedRegressionLoss, bounded_regression_loss

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

deltas = arrays("float32", (3, 4), elements=st.floats(-4, 4, width=32))


def test_hand_arithmetic():
    """Truth 0. Box 1: ||R_s||^2 = 1 + 4 = 5 > ||R_t||^2 = 1: 5. Box 2: 1 < 4: 0. Box 3: both 1, not better: with m = 0
    1 + 0 > 1 is false, so 0; with m = 0.5 it is true, so 1."""
    student = torch.tensor([[1.0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    teacher = torch.tensor([[0.0, 0, 1, 0], [2, 0, 0, 0], [1, 0, 0, 0]])
    truth = torch.zeros(3, 4)
    assert bounded_regression_loss(student, teacher, truth).tolist() == [5, 0, 0]
    assert bounded_regression_loss(student, teacher, truth, margin=0.5).tolist() == [5, 0, 1]
    # A margin of 3.5 asks the second to be better by it: 1 + 3.5 > 4.
    assert bounded_regression_loss(student, teacher, truth, margin=3.5).tolist() == [5, 1, 1]
    assert bounded_regression_loss(student + 7, teacher + 7, truth + 7).tolist() == [5, 0, 0]


@settings(max_examples=100)
@given(student=deltas, teacher=deltas, target=deltas, margin=st.floats(0, 10))
def test_loss_and_gradient_are_zero_where_the_student_is_better_by_the_margin(
    student, teacher, target, margin
):
    student = torch.from_numpy(student).requires_grad_()
    teacher, target = torch.from_numpy(teacher), torch.from_numpy(target)
    loss = bounded_regression_loss(student, teacher, target, margin)
    loss.sum().backward()
    own, bound = ((boxes - target).square().sum(1) for boxes in (student.detach(), teacher))
    better = own + margin <= bound
    assert torch.equal(loss[better], torch.zeros(int(better.sum())))
    assert torch.equal(student.grad[better], torch.zeros(int(better.sum()), 4))
    torch.testing.assert_close(loss[~better], own[~better])
    torch.testing.assert_close(student.grad[~better], 2 * (student.detach() - target)[~better])


def test_gradient_moves_the_student_to_the_truth_and_not_to_the_teacher():
    student = torch.tensor([[2.0, 0, 0, 0]], requires_grad=True)
    teacher = torch.tensor([[-1.0, 0, 0, 0]], requires_grad=True)  # on the other side of the truth
    bounded_regression_loss(student, teacher, torch.tensor([[1.9, 0.0, 0, 0]]) * 0).sum().backward()
    assert student.grad[0].tolist() == [4, 0, 0, 0]
    assert teacher.grad is None


def test_half_precision_is_summed_in_float32():
    """300^2 overflows float16."""
    boxes = torch.full((1, 4), 300.0, dtype=torch.float16, requires_grad=True)
    zeros = torch.zeros(1, 4, dtype=torch.float16)
    loss = bounded_regression_loss(boxes, zeros, zeros)
    assert loss.item() == 4 * 300**2
    loss.sum().backward()
    assert boxes.grad.tolist() == [[600] * 4]


def test_module_weights_and_averages():
    student = torch.tensor([[1.0, 2, 0, 0], [1, 0, 0, 0]])
    loss = BoundedRegressionLoss(loss_weight=0.5)
    zeros = torch.zeros(2, 4)
    assert loss(student, zeros, zeros).item() == pytest.approx(0.5 * (5 + 1) / 2)
    weighted = loss(student, zeros, zeros, torch.tensor([0.0, 2.0]), avg_factor=4)
    assert weighted.item() == pytest.approx(0.5 * 2 / 4)


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"\(2, 4\) \(student\), \(2, 4\) \(teacher\) and \(3, 4\)"):
        bounded_regression_loss(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(3, 4))


@pytest.mark.parametrize("student", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("position", [0, 3])
def test_nan_of_the_teacher_comes_out_as_nan(student, position):
    """Also where the student would be better than any bound; the other box keeps its loss of 4 * 5^2."""
    boxes, taught = torch.tensor([[student] * 4, [5.0] * 4]), torch.zeros(2, 4)
    taught[0, position] = float("nan")
    loss = bounded_regression_loss(boxes, taught, torch.zeros(2, 4))
    assert loss[0].isnan()
    assert loss[1].item() == 100
    assert BoundedRegressionLoss()(boxes, taught, torch.zeros(2, 4)).isnan()


def test_infinitely_wrong_teacher_bounds_nothing():
    taught = torch.full((1, 4), float("inf"))
    assert bounded_regression_loss(torch.ones(1, 4), taught, torch.zeros(1, 4)).item() == 0
