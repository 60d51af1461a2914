"""F1 of matched boxes."""

from itertools import permutations

from lad.online.accuracy import Agreement, above, agreement, no_instances

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.structures import InstanceData
from torchvision.ops import box_iou


def boxes(*rows, labels=None):
    labels = [0] * len(rows) if labels is None else labels
    return InstanceData(
        bboxes=torch.tensor(rows, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
        scores=torch.ones(len(rows)),
    )


def test_hand_counted():
    wanted = boxes([0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60], labels=[0, 0, 1])
    # The first is right, the second of another class, the third too far away (IoU 1/3), the fourth a second box.
    found = boxes([0, 0, 10, 9], [20, 20, 30, 30], [55, 50, 65, 60], [0, 0, 10, 10], labels=[0, 1, 1, 0])
    result = agreement(found, wanted)
    assert result == Agreement(pairs=1, found=4, wanted=3)
    assert result.f1 == pytest.approx(2 / 7)


def test_iou_of_a_half_is_enough():
    assert agreement(boxes([0, 0, 10, 5]), boxes([0, 0, 10, 10])).f1 == 1.0
    assert agreement(boxes([0, 0, 10, 4.9]), boxes([0, 0, 10, 10])).f1 == 0.0


def test_as_many_pairs_as_possible():
    """Greedily, the box between both would take the one that the other box needs."""
    wanted = boxes([0, 0, 10, 10], [0, 0, 10, 16])
    found = boxes([0, 0, 10, 12], [0, 0, 10, 7])
    assert agreement(found, wanted).pairs == 2


def test_no_boxes():
    assert agreement(no_instances(), no_instances()).f1 == 1.0
    assert agreement(boxes([0, 0, 1, 1]), no_instances()).f1 == 0.0
    assert agreement(no_instances(), boxes([0, 0, 1, 1])).f1 == 0.0


def test_sum_counts_all_images_boxes_alike():
    assert (Agreement(1, 2, 2) + Agreement(3, 4, 6)).f1 == pytest.approx(8 / 14)


@st.composite
def random_boxes(draw):
    rows = draw(st.lists(st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 6)] * 2), max_size=4))
    labels = draw(st.lists(st.integers(0, 1), min_size=len(rows), max_size=len(rows)))
    return boxes(*[[x, y, x + w, y + h] for x, y, w, h in rows], labels=labels)


@given(random_boxes(), random_boxes())
def test_equals_the_best_of_all_assignments(found, wanted):
    few, many = sorted((found, wanted), key=len)
    fits = (box_iou(few.bboxes, many.bboxes) >= 0.5) & (few.labels[:, None] == many.labels)
    best = max(
        sum(bool(fits[row, column]) for row, column in enumerate(order))
        for order in permutations(range(len(many)), len(few))
    )
    assert agreement(found, wanted).pairs == best
    assert agreement(wanted, found).f1 == agreement(found, wanted).f1


def test_scores_below_are_left_out():
    found = boxes([0, 0, 1, 1], [1, 1, 2, 2], labels=[3, 4])
    found.scores = torch.tensor([0.5, 0.49])
    kept = above(found, 0.5)
    assert kept.labels.tolist() == [3]
    assert kept.bboxes.tolist() == [[0, 0, 1, 1]]
