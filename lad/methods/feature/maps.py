"""Feature maps: their channels and strides, tokens as maps, and one map in the shape of another."""

from __future__ import annotations

from lad.errors import UnsupportedError
from lad.losses.feature import Objects
from lad.methods.base import Step
from lad.networks.connectors import match_size, tokens_to_map
from lad.networks.dry_run import DRY_RUN_SIZE

import torch
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn


def channels_of(features: Tensor) -> int:
    """The channels of a map (N, C, H, W), or of features (N, L, C) and (N, C)."""
    return features.shape[1 if features.dim() == 4 else -1]


def stride_of(features: Tensor) -> int:
    """Pixels of the dry run's image a cell of a map (N, C, H, W)."""
    return DRY_RUN_SIZE[0] // features.shape[2]


def as_map(features: Tensor, image_size: tuple[int, int]) -> Tensor:
    """A map (N, C, H, W), made of a sequence of tokens (N, L, C) if need be.

    Raises:
        UnsupportedError: neither a map nor a sequence that is one.
    """
    if features.dim() == 3:
        return tokens_to_map(features, image_size)
    if features.dim() != 4:
        raise UnsupportedError(
            f"features of shape {tuple(features.shape)} are neither a map (N, C, H, W) nor a sequence (N, L, C)"
        )
    return features


def adapt(connector: nn.Module, features: Tensor, hint: Tensor) -> Tensor:
    """The student's features with the channels and the resolution of the teacher's ``hint``."""
    adapted = connector(features)
    return match_size(adapted, hint.shape[-2:]) if hint.dim() == 4 else adapted


def objects_of(step: Step) -> Objects:
    """The ground truth of a batch, the boxes of all images in one tensor."""
    bboxes = [get_box_tensor(sample.gt_instances.bboxes) for sample in step.data_samples]
    device = step.inputs.device
    # Sizes live on the host: no wait.
    counts = torch.tensor([len(boxes) for boxes in bboxes])
    images = torch.arange(len(bboxes)).repeat_interleave(counts, output_size=sum(map(len, bboxes)))
    return Objects(
        torch.cat(bboxes).to(device),
        images.to(device, non_blocking=True),
        (step.inputs.shape[-2], step.inputs.shape[-1]),
    )
