"""Relational distillation: distances and angles of embeddings."""

from itertools import permutations

from lad.losses import RKDLoss, relational_loss
from lad.losses.relational import angle_cosines, angle_loss, distance_loss, relative_distances

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st


def embeddings(seed, count=5, channels=4):
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))


def huber(difference):
    size = abs(difference)
    return 0.5 * size**2 if size < 1 else size - 0.5


# A right triangle with sides 3, 4 and 5, right angle first, and three points in a row, 1 and 1 apart.
TRIANGLE = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
ROW = torch.tensor([[0.0], [1.0], [2.0]])


def test_hand_arithmetic():
    """Distances 3, 4, 5 with mean 4, and 1, 2, 1 with mean 4/3: 0.75, 1, 1.25 and 0.75, 1.5, 0.75."""
    torch.testing.assert_close(relative_distances(TRIANGLE), torch.tensor([0.75, 1.0, 1.25]))
    torch.testing.assert_close(relative_distances(ROW), torch.tensor([0.75, 1.5, 0.75]))
    assert distance_loss(ROW, TRIANGLE).item() == pytest.approx((0 + 0.125 + 0.125) / 3)
    # Cosines at the corners: 0, 3/5, 4/5; of the row: 1, -1, 1.
    cosines = angle_cosines(TRIANGLE)
    torch.testing.assert_close(
        torch.stack([cosines[0, 1, 2], cosines[1, 0, 2], cosines[2, 0, 1]]), torch.tensor([0.0, 0.6, 0.8])
    )
    expected = (huber(1.0) + huber(1.6) + huber(0.2)) / 3
    assert angle_loss(ROW, TRIANGLE).item() == pytest.approx(expected)
    assert RKDLoss(2.0, 3.0, loss_weight=0.5)(ROW, TRIANGLE).item() == pytest.approx(
        0.25 / 3 + 1.5 * expected
    )


def test_every_pair_and_triple_counts_once():
    """Against loops over the definitions, in float64."""
    student, teacher = embeddings(0), embeddings(1, channels=7)

    def relations(points):
        points = points.double()
        pairs = list(permutations(range(5), 2))
        distances = torch.stack([(points[i] - points[j]).norm() for i, j in pairs])
        angles = [
            torch.cosine_similarity(points[i] - points[j], points[k] - points[j], dim=0)
            for i, j, k in permutations(range(5), 3)
        ]
        return distances / distances.mean(), torch.stack(angles)

    for function, own, taught in zip(
        (distance_loss, angle_loss), relations(student), relations(teacher), strict=True
    ):
        expected = sum(huber(a - b) for a, b in zip(own.tolist(), taught.tolist(), strict=True)) / len(own)
        assert function(student, teacher).item() == pytest.approx(expected, rel=1e-5)


@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_scale_place_rotation_and_order_do_not_matter(seed, scale):
    student, teacher = embeddings(seed), embeddings(seed + 1, channels=3)
    expected = relational_loss(student, teacher)
    assert expected > 1e-3
    rotation, _ = torch.linalg.qr(embeddings(seed + 2, 4, 4))
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    moved = scale * (student @ rotation + 1)
    torch.testing.assert_close(relational_loss(moved[order], teacher[order]), expected, rtol=1e-3, atol=1e-4)
    assert relational_loss(moved, student) < 1e-4


def test_step_against_the_gradient_lowers_the_loss():
    student, teacher = embeddings(0).requires_grad_(), embeddings(1, channels=8).requires_grad_()
    for function in (distance_loss, angle_loss):
        loss = function(student, teacher)
        (gradient,) = torch.autograd.grad(loss, student)
        assert function((student - 0.01 * gradient / gradient.norm()).detach(), teacher) < loss
    relational_loss(student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_objects_have_no_loss_but_a_gradient_of_zero(count):
    """Two have one distance, which is the mean, and no angle."""
    student = embeddings(0, count).requires_grad_()
    loss = relational_loss(student, embeddings(1, count))
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(student.grad, torch.zeros(count, 4))


def test_objects_that_coincide_are_finite_with_moderate_gradients():
    """Two of four for the student, and all for the teacher; then the other way round."""
    student = embeddings(0, 4)
    student[1] = student[0]
    alike = torch.ones(4, 4)
    for own, taught in ((student, embeddings(1, 4)), (student, alike), (alike, student)):
        own = own.clone().requires_grad_()
        loss = relational_loss(own, taught)
        loss.backward()
        assert loss.isfinite()
        assert own.grad.abs().max() < 1e3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    """Squares of 1000 are more than float16 holds; autocast would take products in half precision."""
    student, teacher = (1000 * embeddings(0)).to(dtype).requires_grad_(), embeddings(1).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = relational_loss(student, teacher)
    torch.testing.assert_close(loss, relational_loss(student.float(), teacher.float()))
    loss.backward()
    assert student.grad.isfinite().all()


def test_other_numbers_of_objects_are_named():
    with pytest.raises(ValueError, match=r"2 objects \(student\) and 3 \(teacher\)"):
        relational_loss(torch.zeros(2, 1), torch.zeros(3, 1))
