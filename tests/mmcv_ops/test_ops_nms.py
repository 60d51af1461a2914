from __future__ import annotations

import lad  # noqa: F401  provides mmcv._ext, which mmcv.ops loads when it is imported

# isort: split

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.ops import batched_nms, nms, nms_match, soft_nms

F32 = np.float32


def overlap(a, b, offset):
    """IoU of two boxes in float32, NaN for two empty ones."""
    width = max(F32(0), min(a[2], b[2]) - max(a[0], b[0]) + F32(offset))
    height = max(F32(0), min(a[3], b[3]) - max(a[1], b[1]) + F32(offset))
    area_a = (a[2] - a[0] + F32(offset)) * (a[3] - a[1] + F32(offset))
    area_b = (b[2] - b[0] + F32(offset)) * (b[3] - b[1] + F32(offset))
    with np.errstate(invalid="ignore"):
        return width * height / (area_a + area_b - width * height)


def nms_reference(boxes, scores, threshold, offset):
    order = sorted(range(len(boxes)), key=lambda i: -scores[i])
    kept = []
    for i in order:
        if not any(overlap(boxes[k], boxes[i], offset) > F32(threshold) for k in kept):
            kept.append(i)
    return kept


def soft_nms_reference(boxes, scores, threshold, sigma, min_score, method, offset):
    """Selection, decay and removal one box at a time; a removed box swaps places with the last one."""
    alive = [[*box, score, index] for index, (box, score) in enumerate(zip(boxes, scores, strict=True))]
    i = 0
    while i < len(alive):
        best = max(range(i, len(alive)), key=lambda k: alive[k][4])
        alive[i], alive[best] = alive[best], alive[i]
        pos = i + 1
        while pos < len(alive):
            iou = overlap(alive[i], alive[pos], offset)
            if method == "gaussian":
                weight = np.exp(-(iou * iou) / F32(sigma))
            elif iou >= F32(threshold):
                weight = 0 if method == "naive" else 1 - iou
            else:
                weight = 1
            alive[pos][4] *= F32(weight)
            if alive[pos][4] < F32(min_score):
                last = alive.pop()
                if pos < len(alive):
                    alive[pos] = last
            else:
                pos += 1
        i += 1
    return np.array([row[:5] for row in alive]).reshape(-1, 5), [row[5] for row in alive]


def nms_match_reference(dets, threshold):
    order = sorted(range(len(dets)), key=lambda i: -dets[i][4])
    groups = []
    while order:
        first, *rest = order
        joined = [i for i in rest if overlap(dets[first], dets[i], 0) >= F32(threshold)]
        groups.append([first, *joined])
        order = [i for i in rest if i not in joined]
    return groups


@st.composite
def detections(draw, max_size=12):
    """Boxes on a coarse grid, so that equal boxes, equal scores and equal overlaps are frequent."""
    count = draw(st.integers(0, max_size))
    corner = st.integers(0, 6)
    side = st.integers(1, 6)
    rows = draw(st.lists(st.tuples(corner, corner, side, side), min_size=count, max_size=count))
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in rows], F32).reshape(-1, 4)
    scores = draw(st.lists(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), min_size=count, max_size=count))
    return boxes, np.array(scores, F32)


@settings(max_examples=150)
@given(detections(), st.sampled_from([0.2, 0.3, 0.5, 0.6, 0.75]), st.sampled_from([0, 1]))
def test_nms_keeps_the_reference_boxes(dets, threshold, offset):
    boxes, scores = dets
    kept_dets, kept = nms(boxes, scores, threshold, offset=offset)
    expected = nms_reference(boxes, scores, threshold, offset)
    assert kept.tolist() == expected
    np.testing.assert_array_equal(kept_dets, np.c_[boxes, scores][expected])


@settings(max_examples=150)
@given(
    detections(),
    st.sampled_from(["naive", "linear", "gaussian"]),
    st.sampled_from([0.2, 0.5, 0.6]),
    st.sampled_from([0.05, 0.3]),
    st.sampled_from([0, 1]),
)
def test_soft_nms_follows_the_reference(dets, method, threshold, min_score, offset):
    boxes, scores = dets
    options = {"sigma": 0.5, "min_score": min_score, "method": method, "offset": offset}
    kept_dets, kept = soft_nms(boxes, scores, threshold, **options)
    expected_dets, expected = soft_nms_reference(boxes, scores, threshold, **options)
    assert kept.tolist() == expected
    np.testing.assert_allclose(kept_dets, expected_dets, rtol=1e-6)


@settings(max_examples=100)
@given(detections(), st.sampled_from([0.2, 0.5, 0.6]))
def test_nms_match_forms_the_reference_groups(dets, threshold):
    rows = np.c_[dets[0], dets[1]]
    groups = nms_match(torch.from_numpy(rows), threshold)
    assert [group.tolist() for group in groups] == nms_match_reference(rows, threshold)


def test_threshold_is_compared_in_float32():
    # IoU is exactly float32(0.6), which exceeds the double 0.6 but not mmcv's threshold.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6]])
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.6)[1].tolist() == [0, 1]
    dets = torch.tensor([[0.0, 0, 10, 10, 0.9], [0, 0, 10, 6, 0.8]])
    assert [group.tolist() for group in nms_match(dets, 0.6)] == [[0, 1]]


def test_offset_makes_boxes_one_pixel_wider():
    # One shared pixel column out of three with the offset, none without.
    boxes = torch.tensor([[0.0, 0, 1, 1], [1, 0, 2, 1]])
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.3, offset=0)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.3, offset=1)[1].tolist() == [0]


def test_no_boxes_and_one_box():
    none, one = torch.zeros(0, 4), torch.tensor([[1.0, 2, 3, 4]])
    score = torch.tensor([0.5])
    for operator in (nms, soft_nms):
        dets, kept = operator(none, torch.zeros(0), 0.5)
        assert dets.shape == (0, 5)
        assert kept.dtype == torch.long
        assert kept.numel() == 0
        dets, kept = operator(one, score, 0.5)
        assert dets.tolist() == [[1, 2, 3, 4, 0.5]]
        assert kept.tolist() == [0]
    assert nms_match(torch.zeros(0, 5), 0.5) == []


def test_score_threshold_and_max_num():
    boxes = torch.arange(5.0)[:, None] * 20 + torch.tensor([0.0, 0, 10, 10])
    scores = torch.tensor([0.1, 0.5, 0.9, 0.3, 0.7])
    assert nms(boxes, scores, 0.5, score_threshold=0.2, max_num=3)[1].tolist() == [2, 4, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_boxes_are_compared_in_float32(dtype):
    # The union of these boxes, 78337, is not finite in float16.
    boxes = torch.tensor([[0.0, 0, 272, 288], [0, 0, 272, 272], [300, 300, 310, 310]], dtype=dtype)
    scores = torch.tensor([0.5, 0.75, 0.25], dtype=dtype)
    dets, kept = nms(boxes, scores, 0.5)
    assert kept.tolist() == [1, 2]
    assert dets.dtype == dtype
    # Half-precision boxes with the float32 scores of a head outside autocast.
    assert nms(boxes, scores.float(), 0.5)[1].tolist() == [1, 2]
    assert soft_nms(boxes, scores, 0.5, method="naive")[1].tolist() == [1, 2]
    dets = torch.cat([boxes, scores[:, None]], dim=1)
    assert [group.tolist() for group in nms_match(dets, 0.5)] == [[1, 0], [2]]


def test_soft_nms_leaves_its_inputs_alone():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    scores = torch.tensor([0.9, 0.8])
    soft_nms(boxes, scores, 0.5)
    assert scores.tolist() == torch.tensor([0.9, 0.8]).tolist()


def test_soft_nms_of_empty_boxes_keeps_their_scores():
    dets, kept = soft_nms(torch.zeros(3, 4), torch.tensor([0.9, 0.8, 0.7]), 0.5, method="gaussian")
    assert kept.tolist() == [0, 1, 2]
    assert torch.equal(dets, torch.tensor([[0, 0, 0, 0, 0.9], [0, 0, 0, 0, 0.8], [0, 0, 0, 0, 0.7]]))


@pytest.mark.parametrize("split_thr", [10000, 2])
@pytest.mark.parametrize("kind", ["nms", "soft_nms"])
def test_batched_nms_separates_classes(split_thr, kind):
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [0, 0, 9, 10]])
    scores = torch.tensor([0.6, 0.9, 0.8, 0.7])
    labels = torch.tensor([0, 0, 1, 1])
    config = {"type": kind, "iou_threshold": 0.5, "split_thr": split_thr}
    if kind == "soft_nms":
        config["method"] = "naive"
    dets, kept = batched_nms(boxes, scores, labels, config)
    assert kept.tolist() == [1, 2]
    torch.testing.assert_close(dets, torch.cat([boxes, scores[:, None]], dim=1)[[1, 2]])
    assert batched_nms(boxes, scores, labels, config, class_agnostic=True)[1].tolist()[0] == 1
