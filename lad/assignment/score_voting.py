"""Batched score voting: each detection's box becomes a weighted mean of the overlapping boxes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag, pad

_MIN_IOU = 0.01
_SIGMA = 0.025
_MIN_UNION = 1e-6


def _eligible_pairs(scores: Tensor, det_labels: Tensor, score_thr: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of a detection and a candidate above the threshold for the detection's class, sorted by detection.

    Returns:
        Detection and candidate of each pair, both (N,) long, and (D,) where each detection's pairs begin.
    """
    if scores.device.type != "cpu":
        own_scores = scores.index_select(1, det_labels).T
        rows, columns = (own_scores > score_thr).nonzero().unbind(1)
        counts = torch.bincount(rows, minlength=len(det_labels))
        return rows, columns, counts.cumsum(0) - counts
    # The few scores above the threshold are found once, sorted by class and repeated for the detections of that class.
    # numpy finds few in many three times as fast, and repeats ten times as fast.
    is_wide = scores.dtype in (torch.float32, torch.float64)
    above = np.flatnonzero(scores.numpy() > score_thr if is_wide else (scores > score_thr).numpy())
    candidate, label = np.divmod(above, scores.shape[1])
    # Numbers of 16 bits or fewer are sorted by radix.
    candidate = candidate[np.argsort(label.astype(np.min_scalar_type(scores.shape[1])), kind="stable")]
    count = np.bincount(label, minlength=scores.shape[1])
    labels = det_labels.numpy()
    repeats = count[labels]
    begin = np.cumsum(repeats) - repeats
    shift = np.repeat((np.cumsum(count) - count)[labels] - begin, repeats)
    candidate = candidate[np.arange(len(shift)) + shift]
    det = np.repeat(np.arange(len(labels)), repeats)
    return torch.from_numpy(det), torch.from_numpy(candidate), torch.from_numpy(begin)


def voting_weights(
    own: Tensor | tuple[Tensor, ...], boxes: Tensor | tuple[Tensor, ...], scores: Tensor
) -> Tensor:
    """Voting weights: exp(-(1 - IoU)^2 / sigma) * score, 0 where the IoU is at most 0.01.

    Args:
        own: (4, ...) x1, y1, x2, y2 of the detections.
        boxes: (4, ...) of the candidates; broadcasts with `own`.
        scores: The candidates' scores, in the shape the two broadcast to.
    """
    x1, y1, x2, y2 = boxes
    own_x1, own_y1, own_x2, own_y2 = own
    # In place throughout: memory traffic dominates the cost.
    width = torch.minimum(x2, own_x2).sub_(torch.maximum(x1, own_x1)).clamp_(min=0)
    height = torch.minimum(y2, own_y2).sub_(torch.maximum(y1, own_y1)).clamp_(min=0)
    overlap = width.mul_(height)
    area, own_area = (x2 - x1) * (y2 - y1), (own_x2 - own_x1) * (own_y2 - own_y1)
    iou = overlap.div_(torch.add(own_area, area).sub_(overlap).clamp_(min=_MIN_UNION))
    close = iou > _MIN_IOU
    return iou.sub_(1).square_().mul_(-1 / _SIGMA).exp_().mul_(scores).masked_fill_(~close, 0.0)


@torch.no_grad()
def vote_boxes(
    det_bboxes: Tensor,
    det_labels: Tensor,
    bboxes: Tensor,
    scores: Tensor,
    score_thr: float,
    compact: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Average each detection with the candidates of its class that it overlaps.

    A candidate votes if its score for the detection's class is above `score_thr` and its IoU with the
    detection above 0.01, with weight exp(-(1 - IoU)^2 / 0.025) * score: the score voting of Kim & Lee,
    "Probabilistic Anchor Assignment with IoU Prediction for Object Detection", ECCV 2020, arXiv 2007.08103,
    as MMDetection's ``PAAHead.score_voting`` computes it and in the order it returns. A detection without
    votes keeps its box (MMDetection drops it if its class has no candidates at all, and returns NaN
    otherwise; neither happens to a detection that is a candidate itself).

    Args:
        det_bboxes: (D, 5), boxes x1, y1, x2, y2 and scores of the detections left by NMS. Computed in float32
            if the dtypes are narrower.
        det_labels: (D,) long in [0, C), their classes.
        bboxes: (P, 4), all boxes before NMS, in the same unit (pixels). Boxes with a coordinate that is not
            finite do not vote.
        scores: (P, C) or (P, C + 1), the scores NMS used; a background column is ignored.
        score_thr: Lowest score, exclusive, of a candidate.
        compact: Compute only the pairs of a detection and a candidate whose score suffices, few of the D * P,
            rather than all of them. Finding how many there are waits for the device. None: on a CPU only.
            The result does not depend on it, rounding apart.

    Returns:
        (D, 5) voted boxes with the scores unchanged, in the dtype of `det_bboxes`, and (D,) their labels; in
        ascending order of class, the detections of one class in the order given.

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    if det_bboxes.dim() != 2 or det_bboxes.shape[1] != 5 or det_labels.shape != det_bboxes.shape[:1]:
        raise ValueError(
            f"need (D, 5) detections and (D,) labels, got {det_bboxes.shape}, {det_labels.shape}"
        )
    if bboxes.dim() != 2 or bboxes.shape[1] != 4 or scores.dim() != 2 or len(scores) != len(bboxes):
        raise ValueError(f"need (P, 4) boxes and (P, C) scores, got {bboxes.shape} and {scores.shape}")
    if compact is None:
        compact = det_bboxes.device.type == "cpu"
    det_labels, order = torch.sort(det_labels, stable=True)
    det_bboxes = det_bboxes[order]
    dtype = torch.promote_types(torch.promote_types(det_bboxes.dtype, bboxes.dtype), torch.float32)
    boxes, own = bboxes.to(dtype), det_bboxes[:, :4].to(dtype)
    # Boxes without a vote have weight 0, which a coordinate that is not finite would turn into NaN; the column of
    # ones accumulates the weights.
    summands = pad(boxes.nan_to_num(0.0, 0.0, 0.0), (0, 1), value=1.0)

    if compact:
        det, candidate, begin = _eligible_pairs(scores, det_labels, score_thr)
        # Embedding kernels gather rows and sum them with weights several times as fast as indexing.
        weight = voting_weights(
            embedding(det, own).unbind(1),
            embedding(candidate, boxes).unbind(1),
            embedding(candidate * scores.shape[1] + det_labels[det], scores.reshape(-1, 1))[:, 0].to(dtype),
        )
        summed = embedding_bag(candidate, summands, begin, mode="sum", per_sample_weights=weight)
    else:
        own_scores = scores.index_select(1, det_labels).T
        weight = voting_weights(own.T[:, :, None], boxes.T[:, None, :], own_scores)
        summed = weight.masked_fill_(own_scores <= score_thr, 0.0) @ summands
    total = summed[:, 4:]
    voted = torch.where(total > 0, summed[:, :4] / total, own)
    return torch.cat((voted.to(det_bboxes.dtype), det_bboxes[:, 4:]), 1), det_labels
