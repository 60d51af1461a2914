from __future__ import annotations

import math
from types import SimpleNamespace

from lad.assignment.score_voting import vote_boxes

import numpy as np
import pytest
import torch
from helpers import fake_cuda
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.dense_heads.paa_head import PAAHead

BOTH = pytest.mark.parametrize("compact", [True, False])


def scene(rng: np.random.Generator, num_classes: int, num_boxes: int, num_dets: int, dtype=torch.float32):
    """Overlapping boxes, scores with a background column, and some of the boxes as detections."""
    centre = rng.integers(0, 4, (num_boxes, 2)) * 100 + rng.normal(0, 8, (num_boxes, 2))
    size = 60 * np.exp(rng.normal(0, 0.2, (num_boxes, 2)))
    boxes = torch.from_numpy(np.concatenate((centre - size / 2, centre + size / 2), 1)).to(dtype)
    scores = torch.from_numpy(rng.random((num_boxes, num_classes + 1)) ** 3).to(dtype)
    scores[:, -1] = 0
    box, label = (torch.from_numpy(rng.integers(0, n, num_dets)) for n in (num_boxes, num_classes))
    scores[box, label] = scores[box, label].clamp(min=0.5)  # a detection is a candidate
    return torch.cat((boxes[box], scores[box, label][:, None]), 1), label, boxes, scores


def mmdet_vote(det_bboxes, det_labels, bboxes, scores, score_thr, num_classes):
    head = SimpleNamespace(cls_out_channels=num_classes)
    return PAAHead.score_voting(head, det_bboxes, det_labels, bboxes, scores, score_thr)


@BOTH
@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_classes=st.sampled_from((1, 2, 5, 80)),
    num_boxes=st.sampled_from((1, 2, 40, 300)),
    num_dets=st.sampled_from((1, 2, 30)),
    score_thr=st.sampled_from((0.0, 0.05, 0.4)),
    background=st.booleans(),
)
def test_equals_mmdet(compact, seed, num_classes, num_boxes, num_dets, score_thr, background):
    dets, labels, boxes, scores = scene(np.random.default_rng(seed), num_classes, num_boxes, num_dets)
    scores = scores if background else scores[:, :-1]
    expected = mmdet_vote(dets, labels, boxes, scores, score_thr, num_classes)
    voted, voted_labels = vote_boxes(dets, labels, boxes, scores, score_thr, compact)
    assert torch.equal(voted_labels, expected[1])
    assert torch.equal(voted[:, 4], expected[0][:, 4])
    torch.testing.assert_close(voted, expected[0], rtol=1e-5, atol=1e-3)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(compact, dtype):
    dets, labels, boxes, scores = scene(np.random.default_rng(0), 5, 200, 20, dtype)
    voted, voted_labels = vote_boxes(dets, labels, boxes, scores, 0.05, compact)
    # The threshold is compared in the scores' own precision, as MMDetection does.
    scores = torch.where(scores > 0.05, scores, torch.zeros_like(scores))
    expected = mmdet_vote(dets.float(), labels, boxes.float(), scores.float(), 0.0, 5)
    assert voted.dtype == dtype
    assert torch.equal(voted_labels, expected[1])
    torch.testing.assert_close(voted, expected[0].to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=0)


@BOTH
def test_float64_stays_float64(compact):
    arguments = scene(np.random.default_rng(0), 5, 200, 20, torch.float64)
    expected = mmdet_vote(*arguments, 0.05, 5)
    torch.testing.assert_close(vote_boxes(*arguments, 0.05, compact), expected, rtol=1e-12, atol=1e-10)


@BOTH
def test_by_hand(compact):
    # The detection and a box with IoU 1/2 vote, weights 0.8 and 0.4 exp(-0.25 / 0.025); a box of another
    # class, one below the threshold and one far away do not.
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 11], [0, 0, 10, 12], [50, 50, 60, 60.0]])
    scores = torch.tensor([[0.8, 0], [0.4, 0], [0, 0.9], [0.05, 0], [0.9, 0]])
    dets = torch.tensor([[0, 0, 10, 10, 0.8]])
    voted, labels = vote_boxes(dets, torch.tensor([0]), boxes, scores, 0.05, compact)
    small = 0.4 * math.exp(-10)
    bottom = (0.8 * 10 + small * 20) / (0.8 + small)
    torch.testing.assert_close(voted, torch.tensor([[0, 0, 10, bottom, 0.8]]))
    assert labels.tolist() == [0]


@BOTH
def test_order_is_by_class_then_as_given(compact):
    boxes = torch.tensor([[0, 0, 10, 10], [100, 0, 110, 10], [200, 0, 210, 10.0]])
    dets = torch.cat((boxes, torch.tensor([[0.9], [0.8], [0.7]])), 1)
    voted, labels = vote_boxes(dets, torch.tensor([2, 0, 2]), boxes, torch.full((3, 4), 0.5), 0.05, compact)
    assert labels.tolist() == [0, 2, 2]
    torch.testing.assert_close(voted, dets[[1, 0, 2]])


@BOTH
def test_without_voters_a_detection_keeps_its_box(compact):
    boxes = torch.tensor([[0, 0, 10, 10], [math.nan, 0, 10, 10], [0, 0, math.inf, 10]])
    dets = torch.tensor([[100, 100, 120, 120, 0.9], [0, 0, 10, 10, 0.5]])
    voted, _ = vote_boxes(dets, torch.tensor([0, 0]), boxes, torch.full((3, 1), 0.5), 0.05, compact)
    torch.testing.assert_close(voted, dets)


@BOTH
@pytest.mark.parametrize(("num_dets", "num_boxes"), [(0, 5), (3, 0), (0, 0)])
def test_nothing_to_vote_on(compact, num_dets, num_boxes):
    dets = torch.rand(num_dets, 5)
    labels = torch.zeros(num_dets).long()
    voted, voted_labels = vote_boxes(
        dets, labels, torch.rand(num_boxes, 4), torch.rand(num_boxes, 3), 0.1, compact
    )
    assert torch.equal(voted, dets)
    assert torch.equal(voted_labels, labels)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="detections"):
        vote_boxes(torch.rand(2, 4), torch.zeros(2).long(), torch.rand(3, 4), torch.rand(3, 2), 0.1)
    with pytest.raises(ValueError, match="boxes"):
        vote_boxes(torch.rand(2, 5), torch.zeros(2).long(), torch.rand(3, 4), torch.rand(4, 2), 0.1)


def test_never_waits_for_a_device():
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    with fake_cuda(real_inputs=False):
        dets, boxes = torch.empty(30, 5, device="cuda"), torch.empty(500, 4, device="cuda")
        labels = torch.empty(30, device="cuda", dtype=torch.long)
        scores = torch.empty(500, 81, device="cuda")
        voted, voted_labels = vote_boxes(dets, labels, boxes, scores, 0.05)
        assert (voted.shape, voted.device.type) == ((30, 5), "cuda")
        assert voted_labels.shape == (30,)
        with pytest.raises(GuardOnDataDependentSymNode):
            int((scores > 0.05).sum())
