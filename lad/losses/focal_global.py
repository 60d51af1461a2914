"""Focal and global distillation loss."""

from __future__ import annotations

from dataclasses import dataclass

from lad.base.settings import check_numbers
from lad.losses.feature import FeatureLoss, Objects, check_maps
from lad.losses.precision import upcast, upcast_pair

import torch
from mmcv.cnn import ContextBlock
from mmdet.registry import MODELS
from torch import Tensor


@dataclass(frozen=True)
class ObjectMasks:
    """Weight of each position of a map, (N, H, W) float32 both.

    Attributes:
        foreground: 1 over the number of positions of the object that is there, the smallest of several; else 0.
        background: 1 over the number of positions of its image that no object covers; 0 where there is one.
    """

    foreground: Tensor
    background: Tensor


@dataclass(frozen=True)
class FocalTerms:
    """The three terms of focal distillation before their weights, (N,) float32 each."""

    foreground: Tensor
    background: Tensor
    attention: Tensor


def object_masks(objects: Objects, num_images: int, map_size: tuple[int, int]) -> ObjectMasks:
    """The binary and the scale mask of focal distillation, multiplied.

    Yang et al., "Focal and Global Knowledge Distillation for Detectors", CVPR 2022, arXiv 2111.11837, Sec. 3.1. Which
    positions a box covers is the authors' code's (github.com/yzd-v/FGD): from floor(x1) to ceil(x2), both included, in
    positions of the map. Of several objects the smallest counts, which is the larger weight. Their code relates boxes
    to the image without its padding, though the map has it; here the whole batch's image size is related to the map.

    Args:
        objects: Boxes in pixels.
        num_images: N.
        map_size: H, W.

    Example:
        >>> import torch
        >>> from lad.losses import Objects, object_masks
        >>> objects = Objects(torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([0]), (16, 32))
        >>> masks = object_masks(objects, num_images=1, map_size=(2, 4))
        >>> masks.foreground
        tensor([[[0.2500, 0.2500, 0.0000, 0.0000],
                 [0.2500, 0.2500, 0.0000, 0.0000]]])
        >>> masks.background
        tensor([[[0.0000, 0.0000, 0.2500, 0.2500],
                 [0.0000, 0.0000, 0.2500, 0.2500]]])
    """
    height, width = map_size
    across, down = width / objects.image_size[1], height / objects.image_size[0]
    left, top, right, bottom = objects.bboxes.float().unbind(dim=1)
    left, top = (left * across).floor(), (top * down).floor()
    right, bottom = (right * across).ceil(), (bottom * down).ceil()
    # Of the whole box, as in the authors' code: also of what the edge of the image cuts off.
    # A reversed box has none, and weighs nothing.
    positions = ((right - left + 1) * (bottom - top + 1)).clamp(min=1)
    columns = torch.arange(width, device=left.device)
    rows = torch.arange(height, device=left.device)
    inside_x = (columns >= left[:, None]) & (columns <= right[:, None])
    inside_y = (rows >= top[:, None]) & (rows <= bottom[:, None])
    weights = (inside_y / positions[:, None])[:, :, None] * inside_x[:, None, :]
    foreground = weights.new_zeros(num_images, height * width)
    index = objects.images[:, None].expand(-1, height * width)
    foreground = foreground.scatter_reduce(0, index, weights.flatten(1), "amax")
    empty = (foreground == 0).float()
    background = empty / empty.sum(dim=1, keepdim=True).clamp(min=1)
    return ObjectMasks(foreground.view(-1, height, width), background.view(-1, height, width))


def attention(features: Tensor, temperature: float = 0.5) -> tuple[Tensor, Tensor]:
    """Compute spatial and channel attention of a map; both are 1 on average.

    Yang et al., CVPR 2022, Sec. 3.1: A^S = H W softmax(G^S / T), G^S the mean of |F| over the channels, and
    A^C = C softmax(G^C / T), G^C the mean over the positions.

    Args:
        features: (N, C, H, W), float32.
        temperature: T, above 0.

    Returns:
        (N, H, W) of the positions and (N, C) of the channels.
    """
    size = features.abs()
    _, channels, height, width = features.shape
    spatial = (size.mean(dim=1).flatten(1) / temperature).softmax(dim=1) * (height * width)
    channel = (size.mean(dim=(2, 3)) / temperature).softmax(dim=1) * channels
    return spatial.view(-1, height, width), channel


def focal_terms(student: Tensor, teacher: Tensor, masks: ObjectMasks, temperature: float = 0.5) -> FocalTerms:
    """Compute the three terms of focal distillation, per image.

    Yang et al., CVPR 2022, Sec. 3.1, with the masks M S, the teacher's attention A and the difference D of the maps:
    sum M S A^S A^C D^2 over channels and positions, for objects and background; and the attention loss, the L1 distance
    of both attentions. Computed in float32.

    Args:
        student: (N, C, H, W), any float dtype.
        teacher: (N, C, H, W); no gradient flows to it.
        masks: For N images and maps of H x W.
        temperature: Of the attention.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses import Objects, focal_terms, object_masks
        >>> objects = Objects(torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([0]), (16, 32))
        >>> masks = object_masks(objects, num_images=1, map_size=(2, 4))
        >>> terms = focal_terms(torch.zeros(1, 1, 2, 4), torch.ones(1, 1, 2, 4), masks)
        >>> terms.foreground, terms.background, terms.attention
        (tensor([1.]), tensor([1.]), tensor([0.]))
    """
    check_maps(student, teacher)
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    student, teacher = upcast_pair(student, teacher)
    spatial, channel = attention(teacher, temperature)
    own_spatial, own_channel = attention(student, temperature)
    # No matrix product here: autocast would take it in half precision.
    distance = spatial * ((student - teacher).square() * channel[:, :, None, None]).sum(dim=1)
    spatial_difference = (own_spatial - spatial).abs().flatten(1).sum(dim=1)
    channel_difference = (own_channel - channel).abs().sum(dim=1)
    return FocalTerms(
        foreground=(masks.foreground * distance).sum(dim=(1, 2)),
        background=(masks.background * distance).sum(dim=(1, 2)),
        attention=spatial_difference + channel_difference,
    )


def relation_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """sum (R_t - R_s)^2 of each image, in float32; R is what a GcBlock makes of a map.

    Yang et al., CVPR 2022, Sec. 3.2.

    Args:
        student: R of the student's map, (N, C, H, W).
        teacher: R of the teacher's. Its block learns too, as in the authors' code, so a gradient flows to it.

    Returns:
        (N,) float32.
    """
    return (upcast(student) - upcast(teacher)).square().flatten(1).sum(dim=1)


@MODELS.register_module()
class FGDLoss(FeatureLoss):
    """Focal and global distillation of one map: Yang et al., CVPR 2022, arXiv 2111.11837.

    alpha L_foreground + beta L_background + gamma L_attention + lambda L_global, each added up over a map and averaged
    over the images, as in the authors' code; so the paper's weights are the ones to give. It has them by the kind of
    detector:

    ===================== ======= ======= ======= ======== ===========
    detector              alpha   beta    gamma   lambda   temperature
    ===================== ======= ======= ======= ======== ===========
    one-stage, anchors    1e-3    5e-4    5e-4    5e-6     0.5
    one-stage, no anchors 1.6e-3  8e-4    8e-4    8e-6     0.8
    two-stage             5e-5    2.5e-5  5e-5    5e-7     0.5
    ===================== ======= ======= ======= ======== ===========

    Global distillation passes both maps through a GcBlock each, which learn beside the student: MMCV's
    ``ContextBlock``, with half the channels inside.

    Args:
        channels: Of the maps; filled in by the method.
        foreground: alpha.
        background: beta.
        attention: gamma.
        relation: lambda.
        temperature: T of the attention.
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the images.
        loss_weight: Factor of the result.

    Example:
        >>> import torch
        >>> from lad.losses import FGDLoss, Objects
        >>> _ = torch.manual_seed(0)
        >>> objects = Objects(torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([0]), (16, 32))
        >>> loss = FGDLoss(channels=2, foreground=1.0, background=0.5, relation=0.0)
        >>> loss(torch.zeros(1, 2, 2, 4), torch.ones(1, 2, 2, 4), objects)
        tensor(3., grad_fn=<MulBackward0>)
    """

    uses_objects = True
    sized = True

    def __init__(
        self,
        channels: int,
        foreground: float = 1e-3,
        background: float = 5e-4,
        attention: float = 5e-4,
        relation: float = 5e-6,
        temperature: float = 0.5,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(reduction, loss_weight)
        weights = dict(foreground=foreground, background=background, attention=attention, relation=relation)
        check_numbers(type(self).__name__, minimum=0, **weights)
        check_numbers(type(self).__name__, above=0, temperature=temperature)
        self.foreground = foreground
        self.background = background
        self.attention = attention
        self.relation = relation
        self.temperature = temperature
        self.student_context = ContextBlock(channels, ratio=0.5)
        self.teacher_context = ContextBlock(channels, ratio=0.5)

    def forward(  # type: ignore[override]  # needs the objects too
        self,
        pred: Tensor,
        target: Tensor,
        objects: Objects,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The reduced loss of maps ``pred`` (student) and ``target`` (teacher) with ``objects``; ``weight`` is (N,)."""
        masks = object_masks(objects, len(pred), (pred.shape[-2], pred.shape[-1]))
        terms = focal_terms(pred, target, masks, self.temperature)
        dtype = self.student_context.conv_mask.weight.dtype  # a teacher in half precision has another
        related = relation_distance(
            self.student_context(pred.to(dtype)), self.teacher_context(target.detach().to(dtype))
        )
        loss = (
            self.foreground * terms.foreground
            + self.background * terms.background
            + self.attention * terms.attention
            + self.relation * related
        )
        return self.reduced(loss, weight, avg_factor, reduction_override)
