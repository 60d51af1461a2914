"""Euclidean distance between a student's and a teacher's features at each position."""

from __future__ import annotations

from typing import Any

from lad.losses.feature import FeatureLoss, check_maps
from lad.losses.precision import upcast_pair

import torch
from mmdet.registry import MODELS
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Squares of distances below this are taken for it.
TINY = 1e-30


class _FeatureDistance(torch.autograd.Function):
    """The distance with its derivative in closed form: one tensor of the maps' size for the backward pass."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        difference = student - teacher
        # Four times as fast as torch.linalg.vector_norm over the channels of a map on a CPU. The bound keeps the
        # derivative finite, and 0, where the two are equal.
        distance = difference.square().sum(dim=1).clamp_(min=TINY).sqrt_()
        if ctx.needs_input_grad[0]:
            positions = distance.shape[1:].numel()
            ctx.save_for_backward(difference.div_(distance.unsqueeze(1) * positions))
        return distance.mean(dim=(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (derivative,) = ctx.saved_tensors
        return gradient.view(-1, 1, 1, 1) * derivative, None


def feature_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over an image's positions of the Euclidean distance of features:  1/(HW) sum_x ||F_s(x) - F_t(x)||_2.

    Zhang et al., "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self Distillation",
    ICCV 2019, arXiv 1905.08094, Sec. 3, compare vectors of features by their L2 norm. Maps have one vector a position:
    here it is the norm over the channels at each position, then the mean. MMRazor's BYOT takes one square root over the
    whole batch, so that four times the images make the term twice as large.

    Args:
        student: (N, C, H, W) of any float dtype, adapted.
        teacher: (N, C, H, W); no gradient flows to them.

    Returns:
        (N,) a value for each image, float32; with gradient 0 at positions where the two are equal.

    Raises:
        ValueError: the shapes differ, or are not those of maps.

    Example:
        >>> import torch
        >>> from lad.losses import feature_distance_loss
        >>> student = torch.tensor([[[[3.0, 1.0]], [[4.0, 2.0]]]])  # two channels, one row of two positions
        >>> teacher = torch.tensor([[[[0.0, 1.0]], [[0.0, 2.0]]]])
        >>> feature_distance_loss(student, teacher)  # (5 + 0) / 2
        tensor([2.5000])
    """
    check_maps(student, teacher)
    return _FeatureDistance.apply(*upcast_pair(student, teacher))


@MODELS.register_module()
class FeatureDistanceLoss(FeatureLoss):
    """:func:`feature_distance_loss` with a weight and a reduction, of images.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'``, of images.
        loss_weight: Factor of the result.

    Example:
        >>> import torch
        >>> from lad.losses import FeatureDistanceLoss
        >>> student, teacher = torch.zeros(2, 4, 3, 3), torch.ones(2, 4, 3, 3)
        >>> FeatureDistanceLoss()(student, teacher)
        tensor(2.)
    """

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N,) the loss of each image."""
        return feature_distance_loss(pred, target)
