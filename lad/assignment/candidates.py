"""PAA's candidate anchors of a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from lad.assignment.finite import refuse_not_finite
from lad.assignment.max_iou import IGNORED
from lad.assignment.priors import PriorGrid

import torch
from mmengine.structures import InstanceData
from torch import Tensor


@dataclass(frozen=True)
class PAACandidates:
    """Anchors that max-IoU assigns to a ground truth: K of them in a batch of N images with P anchors each.

    Attributes:
        index: (K,) int64 into the N * P anchors of the batch.
        gt_index: (K,) int64, the ground truth over the whole batch, in [0, num_gts).
        level: (K,) int64, the feature level.
        anchors: (K, 4) xyxy in pixels.
        gt_bboxes: (K, 4) xyxy in pixels, the ground truth's box.
        labels: (K,) int64, its class.
        ignored: (N * P,) bool, anchors that take no part: neither positive nor negative.
        gt_counts: How many ground truths each image has.
        grid: The anchors.
    """

    index: Tensor
    gt_index: Tensor
    level: Tensor
    anchors: Tensor
    gt_bboxes: Tensor
    labels: Tensor
    ignored: Tensor
    gt_counts: tuple[int, ...]
    grid: PriorGrid

    def __len__(self) -> int:
        return len(self.index)

    @property
    def num_gts(self) -> int:
        """Number of ground truths in the batch."""
        return sum(self.gt_counts)


def fetch(values: Tensor) -> list[int]:
    """Copy values to the host: the one place where the assignment of a batch waits for the device."""
    return values.tolist()


def find_candidates(
    grid: PriorGrid,
    assigned: Tensor,
    batch_gt_instances: Sequence[InstanceData],
    batch_img_metas: Sequence[dict],
    finite: Tensor,
) -> PAACandidates:
    """Gather the candidates of a batch.

    Waits for the device once, in :func:`fetch`.

    Args:
        grid: The anchors.
        assigned: (N, P) int64, ground truth within the image, negative where none.
        batch_gt_instances: Ground truth with ``bboxes`` (xyxy in pixels) and ``labels``.
        batch_img_metas: Metadata, for the error message.
        finite: (N,) bool, whether an image's predictions are all finite; fetched with the count.

    Raises:
        FloatingPointError: an image's predictions are not finite; the message names the image.
    """
    device = assigned.device
    num_priors = assigned.shape[1]
    is_candidate = (assigned >= 0).flatten()
    place = is_candidate.cumsum(0)
    count, *healthy = fetch(torch.cat([place[-1:], finite.to(place.dtype)]))
    refuse_not_finite(healthy, batch_img_metas)
    # nonzero() with a known count: anchors that are no candidates are written to one extra slot, which is cut off.
    index = place.new_zeros(count + 1)
    index.scatter_(0, torch.where(is_candidate, place - 1, count), torch.arange(len(place), device=device))
    index = index[:count]

    counts = [len(instances) for instances in batch_gt_instances]
    offsets = torch.tensor([0, *accumulate(counts)][:-1]).to(device, non_blocking=True)
    prior = index % num_priors
    gt_index = assigned.flatten()[index] + offsets[index // num_priors]
    gt_bboxes = torch.cat([instances.bboxes for instances in batch_gt_instances])
    gt_labels = torch.cat([instances.labels for instances in batch_gt_instances])
    return PAACandidates(
        index=index,
        gt_index=gt_index,
        level=grid.level[prior],
        anchors=grid.anchors[prior],
        gt_bboxes=gt_bboxes[gt_index],
        labels=gt_labels[gt_index],
        ignored=(assigned == IGNORED).flatten(),
        gt_counts=tuple(counts),
        grid=grid,
    )
