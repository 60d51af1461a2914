"""Score voting: each detection's box becomes a weighted mean of the boxes around it, all detections at once."""

from __future__ import annotations

import torch
from torch import Tensor

_MIN_IOU = 0.01
_SIGMA = 0.025
_MIN_UNION = 1e-6


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of every box (P, 4) with every other box (D, 4): (P, D)."""
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    other_x1, other_y1, other_x2, other_y2 = others.T[:, None, :].unbind(0)
    # In place all along: at this size memory traffic is what costs.
    width = torch.minimum(x2, other_x2).sub_(torch.maximum(x1, other_x1)).clamp_(min=0)
    height = torch.minimum(y2, other_y2).sub_(torch.maximum(y1, other_y1)).clamp_(min=0)
    overlap = width.mul_(height)
    area, other_area = (x2 - x1) * (y2 - y1), (other_x2 - other_x1) * (other_y2 - other_y1)
    union = torch.add(area, other_area, out=height).sub_(overlap).clamp_(min=_MIN_UNION)
    return overlap.div_(union)


@torch.no_grad()
def vote_boxes(
    det_bboxes: Tensor, det_labels: Tensor, bboxes: Tensor, scores: Tensor, score_thr: float
) -> tuple[Tensor, Tensor]:
    """Average each detection with the candidates of its class that it overlaps.

    A candidate votes if its score for the detection's class is above `score_thr` and its IoU with the
    detection above 0.01, with weight exp(-(1 - IoU)^2 / 0.025) * score: the score voting of Kim & Lee,
    "Probabilistic Anchor Assignment with IoU Prediction for Object Detection", ECCV 2020, arXiv 2007.08103,
    as MMDetection's ``PAAHead.score_voting`` computes it and in the order it returns. A detection nobody votes
    for keeps its box (MMDetection drops it if its class has no candidates at all, and answers NaN otherwise;
    neither happens to a detection that is a candidate itself). Never makes the host wait for the device.

    Args:
        det_bboxes: (D, 5), boxes x1, y1, x2, y2 and scores of the detections left by NMS. Computed in float32
            if the dtypes are narrower.
        det_labels: (D,) long in [0, C), their classes.
        bboxes: (P, 4), all boxes before NMS, in the same unit (pixels). Boxes with a coordinate that is not
            finite do not vote.
        scores: (P, C) or (P, C + 1), the scores NMS used; a background column is ignored.
        score_thr: Lowest score, exclusive, of a candidate.

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
    det_labels, order = torch.sort(det_labels, stable=True)
    det_bboxes = det_bboxes[order]
    dtype = torch.promote_types(torch.promote_types(det_bboxes.dtype, bboxes.dtype), torch.float32)
    boxes, own = bboxes.to(dtype), det_bboxes[:, :4].to(dtype)

    iou = _iou(boxes, own)
    own_scores = scores.index_select(1, det_labels)
    votes = (own_scores > score_thr).logical_and_(iou > _MIN_IOU)
    weight = iou.sub_(1).square_().mul_(-1 / _SIGMA).exp_().mul_(own_scores).masked_fill_(~votes, 0.0)

    # Boxes without a vote have weight 0, which a coordinate that is not finite would turn into NaN.
    boxes = boxes.nan_to_num(0.0, 0.0, 0.0)
    total = weight.sum(0)[:, None]
    voted = torch.where(total > 0, (weight.T @ boxes) / total, own)
    return torch.cat((voted.to(det_bboxes.dtype), det_bboxes[:, 4:]), 1), det_labels
