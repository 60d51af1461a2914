"""Batched max-IoU against MMDetection's assigner, image by image."""

from lad.assignment import max_iou
from lad.assignment.max_iou import IGNORED, NEGATIVE, assign_max_iou, assign_one_by_one, is_batchable
from lad.assignment.priors import prior_grid

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.task_modules import AnchorGenerator, MaxIoUAssigner, PseudoSampler
from mmengine.structures import InstanceData


def random_problem(seed: int, counts: list[int], quantum: float):
    generator = torch.Generator().manual_seed(seed)
    grid = prior_grid(
        AnchorGenerator(strides=[16, 32], ratios=[0.5, 1.0], scales=[3]), [(6, 8), (3, 4)], "cpu"
    )
    inside = torch.rand(len(counts), len(grid.anchors), generator=generator) < 0.9
    boxes = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([110.0, 80.0])
        extent = torch.rand(count, 2, generator=generator) * 60 + 1
        # A coarse grid makes equal overlaps likely.
        boxes.append((torch.cat([corner, corner + extent], dim=1) / quantum).round() * quantum)
    return grid, inside, boxes


def oracle(grid, inside, boxes, assigner):
    instances = [InstanceData(bboxes=box, labels=torch.zeros(len(box)).long()) for box in boxes]
    return assign_one_by_one(grid.anchors, inside, instances, [None] * len(boxes), assigner)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    quantum=st.sampled_from([1e-3, 8.0]),
    pos=st.sampled_from([0.1, 0.5]),
    neg=st.sampled_from([0.1, 0.4, (0.1, 0.3)]),
    min_pos=st.sampled_from([0.0, 0.3]),
    assign_all=st.booleans(),
    low_quality=st.booleans(),
)
def test_assignment_equals_mmdetections(seed, counts, quantum, pos, neg, min_pos, assign_all, low_quality):
    grid, inside, boxes = random_problem(seed, counts, quantum)
    assigner = MaxIoUAssigner(
        pos_iou_thr=pos,
        neg_iou_thr=neg,
        min_pos_iou=min_pos,
        gt_max_assign_all=assign_all,
        match_low_quality=low_quality,
    )
    assert torch.equal(
        assign_max_iou(grid.anchors, inside, boxes, assigner), oracle(grid, inside, boxes, assigner)
    )


def test_parts_of_a_large_batch_give_the_same(monkeypatch):
    grid, inside, boxes = random_problem(3, [5, 0, 9, 2, 30], 1e-3)
    assigner = MaxIoUAssigner(0.1, 0.1)
    whole = assign_max_iou(grid.anchors, inside, boxes, assigner)
    monkeypatch.setattr(max_iou, "MAX_OVERLAPS", 1)
    assert torch.equal(assign_max_iou(grid.anchors, inside, boxes, assigner), whole)


def test_hand_made_case():
    """Anchors of 10 px at x = 0, 10, 20; one object on [0, 9], one on [4, 14] whose best anchor is the second.

    IoU of the second object: with anchor 0, 6/14 = 0.43; with anchor 1, 4/16... so anchor 0 is its best, and as it
    comes later it takes anchor 0 from the first object, whose own best IoU there is 90/100 = 0.9.
    """
    anchors = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10]])
    boxes = [torch.tensor([[0.0, 0, 9, 10], [4, 0, 14, 10]])]
    inside = torch.tensor([[True, True, False]])
    assigned = assign_max_iou(anchors, inside, boxes, MaxIoUAssigner(0.5, 0.1, min_pos_iou=0.0))
    # Anchor 1 overlaps the second object by 40 of 160: between the thresholds, ignored.
    assert assigned.tolist() == [[1, IGNORED, IGNORED]]
    assert assign_max_iou(anchors, inside, [boxes[0][:0]], MaxIoUAssigner(0.5, 0.1)).tolist() == [
        [NEGATIVE, NEGATIVE, IGNORED]
    ]


@pytest.mark.parametrize(
    ("assigner", "ignored_regions", "expected"),
    [
        (MaxIoUAssigner(0.1, 0.1), True, True),
        (MaxIoUAssigner(0.1, 0.1, ignore_iof_thr=0.5), False, True),
        (MaxIoUAssigner(0.1, 0.1, ignore_iof_thr=0.5), True, False),
        (MaxIoUAssigner(0.1, 0.1, iou_calculator=dict(type="BboxOverlaps2D", dtype="fp16")), False, False),
    ],
)
def test_only_what_is_reproduced_exactly_is_batched(assigner, ignored_regions, expected):
    assert is_batchable(assigner, PseudoSampler(), ignored_regions) is expected
