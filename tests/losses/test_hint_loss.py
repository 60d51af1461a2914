"""Distance of features."""

from lad.losses import HintLoss, hint_loss

import pytest
import torch


def test_hand_arithmetic():
    """Differences 1, -2 and 0: squares 1, 4, 0 with mean 5/3; absolute values 1, 2, 0 with mean 1."""
    student, teacher = torch.tensor([1.0, 1.0, 3.0]), torch.tensor([0.0, 3.0, 3.0])
    assert hint_loss(student, teacher).tolist() == [1, 4, 0]
    assert hint_loss(student, teacher, "l1").tolist() == [1, 2, 0]
    assert HintLoss(loss_weight=0.5)(student, teacher).item() == pytest.approx(5 / 6)
    assert HintLoss("l1", reduction="sum")(student, teacher).item() == 3
    weight = torch.tensor([0.0, 1.0, 1.0])
    assert HintLoss()(student, teacher, weight, avg_factor=2).item() == pytest.approx(2)


@pytest.mark.parametrize(("norm", "gradient"), [("l2", [2.0, -4.0]), ("l1", [1.0, -1.0])])
def test_gradient_moves_the_student_towards_the_teacher(norm, gradient):
    student = torch.tensor([1.0, 1.0], requires_grad=True)
    teacher = torch.tensor([0.0, 3.0], requires_grad=True)
    hint_loss(student, teacher, norm).sum().backward()
    assert student.grad.tolist() == gradient
    assert teacher.grad is None


def test_half_precision_is_squared_in_float32():
    features = torch.tensor([400.0], dtype=torch.float16)
    assert hint_loss(features, -features).item() == 640_000


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"\(1, 2\) \(student\) and \(2, 1\)"):
        hint_loss(torch.zeros(1, 2), torch.zeros(2, 1))
    for call in (lambda: hint_loss(torch.zeros(1), torch.zeros(1), "l3"), lambda: HintLoss("l3")):
        with pytest.raises(ValueError, match="norm must be one of l2, l1, got 'l3'"):
            call()
