"""Non-maximum suppression: hard, soft, and its groups of suppressed boxes.

Boxes are ``(x1, y1, x2, y2)`` in pixels; with ``offset`` 1 a box ends at the far side of its last pixel, so
its width is ``x2 - x1 + 1``. mmcv rounds the threshold to float32 before it compares, and so does this file:
an IoU of exactly ``float32(0.6)`` does not exceed the threshold 0.6.
"""

from __future__ import annotations

from lad.mmcv_ops.precision import upcast

import numpy as np
import torch
import torchvision
from torch import Tensor

NAIVE, LINEAR, GAUSSIAN = range(3)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the kept boxes, by descending score; a box is suppressed by a better one of IoU > threshold.

    Args:
        boxes: ``(N, 4)``.
        scores: ``(N,)``.
        iou_threshold: The highest IoU two kept boxes may have.
        offset: 0 or 1.
    """
    boxes, scores = upcast(boxes, scores)
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    return torchvision.ops.nms(boxes, scores.to(boxes.dtype), float(np.float32(iou_threshold)))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS: scores of overlapping boxes decay, and boxes below ``min_score`` are dropped.

    mmcv passes CPU tensors and expects the result there. One step per kept box over numpy arrays: the
    steps depend on each other, and numpy's small operations cost less than torch's.

    Args:
        boxes: ``(N, 4)``.
        scores: ``(N,)``.
        dets: ``(N, 5)``, filled in place with the kept boxes and their decayed scores.
        iou_threshold: Where the naive and the linear decay begin.
        sigma: Width of the Gaussian decay.
        min_score: Below it a box is dropped.
        method: 0 drops, 1 decays by ``1 - IoU``, 2 by ``exp(-IoU^2 / sigma)``.
        offset: 0 or 1.

    Returns:
        Indices of the kept boxes, in the order of their selection.
    """
    corners, initial = (tensor.detach().numpy() for tensor in upcast(boxes, scores))
    decayed = initial.copy()
    order = np.arange(len(corners))
    selected, alive = 0, len(corners)
    while selected < alive:
        best = selected + int(decayed[order[selected:alive]].argmax())
        order[[selected, best]] = order[[best, selected]]
        rest = order[selected + 1 : alive]
        overlap = _iou(corners[order[selected]], corners[rest], offset)
        decayed[rest] *= _decay(overlap, method, iou_threshold, sigma)
        alive = selected + 1 + _drop(rest, decayed[rest] < min_score)
        selected += 1
    kept = torch.from_numpy(order[:alive])
    dets[:alive] = torch.from_numpy(np.concatenate([corners, decayed[:, None]], axis=1))[kept].to(dets)
    return kept


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of NMS: every kept box's index, followed by those it suppressed, by descending score.

    Unlike :func:`nms`, an IoU equal to the threshold suppresses, as in mmcv.

    Args:
        dets: ``(N, 5)``, boxes and scores on the CPU.
        iou_threshold: From this IoU on a box joins a better one's group.
    """
    (dets,) = upcast(dets)
    rest = dets[:, 4].sort(descending=True, stable=True).indices.numpy()
    boxes = dets[:, :4].numpy()
    groups = []
    while len(rest):
        best, rest = rest[0], rest[1:]
        joins = _iou(boxes[best], boxes[rest], offset=0) >= np.float32(iou_threshold)
        groups.append([int(best), *rest[joins].tolist()])
        rest = rest[~joins]
    return groups


def _iou(box: np.ndarray, others: np.ndarray, offset: int) -> np.ndarray:
    """IoU of one ``(4,)`` box with ``(M, 4)`` others; 0 where both are empty, which mmcv leaves undefined."""
    top_left = np.maximum(box[:2], others[:, :2])
    bottom_right = np.minimum(box[2:], others[:, 2:])
    overlap = np.maximum(bottom_right - top_left + offset, 0).prod(axis=1)
    area = (box[2:] - box[:2] + offset).prod()
    union = area + (others[:, 2:] - others[:, :2] + offset).prod(axis=1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union != 0)


def _decay(overlap: np.ndarray, method: int, iou_threshold: float, sigma: float) -> np.ndarray:
    """Factor for the scores of boxes with this overlap."""
    if method == GAUSSIAN:
        return np.exp(-(overlap * overlap) / np.float32(sigma))
    begun = overlap >= np.float32(iou_threshold)
    return np.where(begun, 1 - overlap if method == LINEAR else np.zeros_like(overlap), np.ones_like(overlap))


def _drop(order: np.ndarray, dropped: np.ndarray) -> int:
    """Fill the gaps of dropped entries in place with entries from the end; returns the number of entries left.

    mmcv swaps a dropped box with the last one, which determines the order of equal scores later on.
    """
    left = len(order) - int(dropped.sum())
    gaps = np.flatnonzero(dropped[:left])
    movers = left + np.flatnonzero(~dropped[left:])
    order[gaps] = order[movers[::-1]]
    return left
