"""Batched max-IoU assignment."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models.task_modules import BboxOverlaps2D, MaxIoUAssigner, PseudoSampler
from mmdet.models.task_modules.assigners import BaseAssigner
from mmdet.models.task_modules.samplers import BaseSampler
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# Overlaps (ground truths x priors) computed at once, about 75 MB with their temporaries. A batch with more of
# them is processed in several parts, so that memory does not grow with the batch.
MAX_OVERLAPS = 1 << 21

IGNORED = -2
NEGATIVE = -1


def assign_max_iou(
    priors: Tensor,
    inside: Tensor,
    gt_bboxes: Sequence[Tensor],
    assigner: MaxIoUAssigner,
) -> Tensor:
    """Assign the priors of all images of a batch as MMDetection's :class:`MaxIoUAssigner` does, without device waits.

    Args:
        priors: Anchors shared by the images, (P, 4), xyxy in pixels.
        inside: Which priors take part in each image, (N, P).
        gt_bboxes: Boxes of each image, (G_n, 4).
        assigner: Its thresholds are used; it must pass :func:`is_batchable`.

    Returns:
        (N, P) int64: index of the ground truth within its image, ``NEGATIVE`` (-1) or ``IGNORED`` (-2). Priors
        outside are ignored.
    """
    num_images, num_priors = inside.shape
    most = max((len(boxes) for boxes in gt_bboxes), default=0)
    if most == 0 or num_priors == 0:
        return torch.where(inside, NEGATIVE, IGNORED)
    padded = pad_sequence(list(gt_bboxes), batch_first=True)
    real = torch.arange(most)[None] < torch.tensor([[len(boxes)] for boxes in gt_bboxes])
    real = real.to(inside.device, non_blocking=True)
    per_part = max(1, MAX_OVERLAPS // (most * num_priors))
    # In parts to bound the memory; a single one unless there are very many objects.
    parts = [
        _assign(priors, inside[i : i + per_part], padded[i : i + per_part], real[i : i + per_part], assigner)
        for i in range(0, num_images, per_part)
    ]
    return torch.cat(parts)


def _assign(priors: Tensor, inside: Tensor, boxes: Tensor, real: Tensor, assigner: MaxIoUAssigner) -> Tensor:
    overlaps = bbox_overlaps(boxes, priors.expand(len(boxes), -1, -1))  # (n, G, P)
    # Below every IoU, so that neither padding nor a prior outside is ever the best match.
    overlaps = overlaps.masked_fill(~(real[:, :, None] & inside[:, None, :]), -1.0)
    best_iou, best_gt = overlaps.max(dim=1)
    assigned = torch.full_like(best_gt, IGNORED)
    low, high = (
        assigner.neg_iou_thr if isinstance(assigner.neg_iou_thr, tuple) else (0.0, assigner.neg_iou_thr)
    )
    has_objects = real.any(dim=1, keepdim=True)
    negative = ((best_iou >= low) & (best_iou < high)) | ~has_objects
    assigned = assigned.masked_fill(negative, NEGATIVE)
    assigned = torch.where(best_iou >= assigner.pos_iou_thr, best_gt, assigned)
    if assigner.match_low_quality:
        gt_best_iou, gt_best_prior = overlaps.max(dim=2, keepdim=True)  # (n, G, 1)
        if assigner.gt_max_assign_all:
            matched = overlaps == gt_best_iou
        else:
            matched = torch.zeros_like(overlaps, dtype=torch.bool).scatter_(2, gt_best_prior, True)
        matched &= (gt_best_iou >= assigner.min_pos_iou) & real[:, :, None]
        # MMDetection overwrites in the order of the ground truths: the last match is kept.
        order = torch.arange(1, boxes.shape[1] + 1, device=boxes.device)
        last = (matched * order[:, None]).amax(dim=1)
        assigned = torch.where(last > 0, last - 1, assigned)
    return assigned.masked_fill(~inside, IGNORED)


def is_batchable(assigner: BaseAssigner, sampler: BaseSampler, has_ignored_regions: bool) -> bool:
    """Whether :func:`assign_max_iou` reproduces this assigner and sampler exactly."""
    return (
        type(assigner) is MaxIoUAssigner
        and type(sampler) is PseudoSampler
        and type(assigner.iou_calculator) is BboxOverlaps2D
        and assigner.iou_calculator.dtype is None
        and assigner.perm_repeat_gt_cfg is None
        and not (has_ignored_regions and assigner.ignore_iof_thr > 0)
    )


def assign_one_by_one(
    priors: Tensor,
    inside: Tensor,
    batch_gt_instances: Sequence[InstanceData],
    batch_gt_instances_ignore: Sequence[InstanceData | None],
    assigner: BaseAssigner,
    sampler: BaseSampler | None = None,
) -> Tensor:
    """Assign image by image with any assigner that uses priors alone, as MMDetection calls it.

    For assigners and samplers that :func:`assign_max_iou` does not cover; waits for the device at every image.
    Returns the same as :func:`assign_max_iou`; priors that the sampler leaves out are ignored.
    """
    assigned = inside.new_full(inside.shape, IGNORED, dtype=torch.long)
    for image, (gt_instances, ignore) in enumerate(
        zip(batch_gt_instances, batch_gt_instances_ignore, strict=True)
    ):
        own = InstanceData(priors=priors[inside[image]])
        result = assigner.assign(own, gt_instances, ignore)
        # MMDetection: -1 ignored, 0 negative, 1 the first ground truth.
        decided = result.gt_inds - 1
        if sampler is not None:
            sampled = sampler.sample(result, own, gt_instances)
            chosen = torch.cat([sampled.pos_inds, sampled.neg_inds])
            decided = torch.full_like(decided, IGNORED).scatter(0, chosen, decided[chosen])
        assigned[image, inside[image]] = decided
    return assigned
