"""Valuable localisation region of localisation distillation: anchors near an object that are not positive."""

from __future__ import annotations

from collections.abc import Sequence

from lad.assignment.max_iou import MAX_OVERLAPS

import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor

EPS = 1e-6


@torch.no_grad()
def valuable_region(
    anchors: Tensor,
    inside: Tensor,
    gt_bboxes: Tensor,
    counts: Sequence[int],
    topk: int = 9,
    gamma: float = 0.25,
) -> Tensor:
    """Largest IoU of each anchor with the objects whose valuable localisation region contains it, else 0.

    Zheng et al., "Localization Distillation for Dense Object Detection", CVPR 2022, arXiv 2102.12252, Algorithm 1: with
    the threshold a of an object that ATSS takes for its positives (mean plus standard deviation of the IoUs of the
    ``topk`` anchors of each level whose centres are nearest), the region contains the anchors with
    gamma a <= DIoU < a. The IoU as a weight follows the authors' code. An anchor may be both positive and in the
    region, as its DIoU is less than its IoU.

    Args:
        anchors: (P, 4) xyxy in pixels, by level.
        inside: (N, P) bool, anchors that are used in each image.
        gt_bboxes: (N, G, 4) xyxy, boxes without area where an image has fewer than G objects.
        counts: Number of anchors of each level.
        topk: Candidates of a level, as in ATSS.
        gamma: Lower end of the region, as a fraction of the threshold; in [0, 1].

    Returns:
        (N, P) float32.
    """
    most = gt_bboxes.shape[1]
    if most == 0:
        return anchors.new_zeros(inside.shape)
    # In parts to bound the memory; a single one unless there are very many objects.
    per_part = max(1, MAX_OVERLAPS // (most * len(anchors)))
    parts = zip(inside.split(per_part), gt_bboxes.split(per_part), strict=True)
    return torch.cat([_region(anchors, *part, counts, topk, gamma) for part in parts])


def _region(
    anchors: Tensor, inside: Tensor, gt_bboxes: Tensor, counts: Sequence[int], topk: int, gamma: float
) -> Tensor:
    boxes = anchors.expand(len(gt_bboxes), -1, -1)
    overlaps = bbox_overlaps(gt_bboxes, boxes)  # (N, G, P)
    centres, gt_centres = ((box[..., :2] + box[..., 2:]) / 2 for box in (boxes, gt_bboxes))
    distance = (gt_centres[:, :, None] - centres[:, None]).square().sum(dim=3)
    taking_part = inside[:, None].expand_as(distance)
    # A loop over the few levels: each has its own candidates.
    nearest_of_levels = [
        part.topk(min(topk, part.shape[2]), dim=2, largest=False)[1] + sum(counts[:level])
        for level, part in enumerate(distance.masked_fill(~taking_part, torch.inf).split(list(counts), dim=2))
    ]
    nearest = torch.cat(nearest_of_levels, dim=2)
    counted = taking_part.gather(2, nearest).float()
    candidates = overlaps.gather(2, nearest)
    number = counted.sum(dim=2)
    mean = (candidates * counted).sum(dim=2) / number.clamp(min=1)
    variance = ((candidates - mean[:, :, None]).square() * counted).sum(dim=2) / (number - 1).clamp(min=1)
    threshold = (mean + variance.sqrt())[:, :, None]
    # DIoU = IoU - squared distance of the centres / squared diagonal of the box around both.
    least = torch.minimum(gt_bboxes[:, :, None, :2], boxes[:, None, :, :2])
    largest = torch.maximum(gt_bboxes[:, :, None, 2:], boxes[:, None, :, 2:])
    diou = overlaps - distance / ((largest - least).square().sum(dim=3) + EPS)
    in_region = (diou >= gamma * threshold) & (diou < threshold) & taking_part
    return (overlaps * in_region).amax(dim=1)
