"""Partial L2 loss and margin ReLU of the overhaul of feature distillation."""

from __future__ import annotations

from lad.losses.feature import FeatureLoss, check_maps
from lad.losses.precision import upcast, upcast_pair

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

#: From this ratio of mean to deviation on, the closed form would lose its digits, and a series has them.
SERIES = 50.0


def negative_expectation(mean: Tensor, std: Tensor) -> Tensor:
    """E[x | x < 0] of normal distributions.

    Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019, arXiv 1904.01866, Eq. 3 and the appendix:
    mu - sigma phi(mu / sigma) / Phi(-mu / sigma), with density and distribution of the standard normal. The authors'
    code has -3 sigma where less than a thousandth is negative; this is the expectation there, too, which lies
    between -sigma^2 / mu and 0.

    Args:
        mean: mu, any shape.
        std: sigma, not negative; 0 gives min(mu, 0), the limit.

    Returns:
        float64 of that shape, never positive.

    Example:
        >>> import torch
        >>> from lad.losses import negative_expectation
        >>> negative_expectation(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0]))
        tensor([-0.7979, -0.3732], dtype=torch.float64)
    """
    # Once for each teacher. In float32 the difference below has no digit left from mu = 3 sigma on.
    mean, std = mean.double(), std.double()
    ratio = mean / std.clamp(min=torch.finfo(std.dtype).tiny)
    # phi(a) / Phi(-a) without a quotient of two numbers that vanish.
    hazard = (2 / torch.pi) ** 0.5 / torch.special.erfcx(ratio / 2**0.5)
    # There mu / sigma - hazard = -1/a + 2/a^3 - 10/a^5 + ..., and one over the ratio is 0 where the deviation is.
    inverse = 1 / ratio.clamp(min=SERIES)
    series = -std * (inverse - 2 * inverse**3 + 10 * inverse**5)
    return torch.where(ratio > SERIES, series, mean - std * hazard).clamp(max=0)


class MarginReLU(nn.Module):
    """max(x, m), a margin m for each channel.

    Heo et al., ICCV 2019, Sec. 3.1: how strongly the teacher's neuron is active where it is; where it is not, that is
    all that the student is to learn, so what lies below the margin counts as the margin.

    Args:
        margin: (C,), not positive.

    Example:
        >>> import torch
        >>> from lad.losses.overhaul import MarginReLU
        >>> MarginReLU(torch.tensor([-0.5]))(torch.tensor([[[[-1.0, 3.0]]]]))
        tensor([[[[-0.5000,  3.0000]]]])
    """

    margin: Tensor

    def __init__(self, margin: Tensor) -> None:
        super().__init__()
        # Not saved: it follows from the teacher's weights.
        self.register_buffer("margin", margin.float(), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W), float32."""
        return upcast(features).maximum(self.margin[:, None, None])


def partial_l2_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance that leaves out neurons inactive in both networks, per image.

    Heo et al., ICCV 2019, Eq. 4: for each position 0 if S <= T <= 0, else (T - S)^2. The paper adds them up; this is
    the mean over channels and positions, which does not depend on the size of an image. Computed in float32.

    Args:
        student: S, (N, C, H, W), any float dtype.
        teacher: T after :class:`MarginReLU`, (N, C, H, W); no gradient flows to it.

    Returns:
        (N,) float32.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> from lad.losses import partial_l2_loss
        >>> student, teacher = torch.tensor([[[[1.0, -3.0]]]]), torch.tensor([[[[2.0, -1.0]]]])
        >>> partial_l2_loss(student, teacher)
        tensor([0.5000])
    """
    check_maps(student, teacher)
    student, teacher = upcast_pair(student, teacher)
    inactive = (student <= teacher) & (teacher <= 0)
    return (teacher - student).masked_fill(inactive, 0).square().flatten(1).mean(dim=1)


@MODELS.register_module()
class OFDLoss(FeatureLoss):
    """:func:`partial_l2_loss`, averaged over the images.

    The connector is the paper's: a 1x1 convolution and a batch norm.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the images.
        loss_weight: Factor of the result.

    Example:
        >>> import torch
        >>> from lad.losses import OFDLoss
        >>> student, teacher = torch.tensor([[[[1.0, -3.0]]]]), torch.tensor([[[[2.0, -1.0]]]])
        >>> OFDLoss()(student, teacher)
        tensor(0.5000)
    """

    connector = dict(type="ConvModule", kernel_size=1, norm_cfg=dict(type="BN"), act_cfg=None)

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N,) the loss of each image, of the responses of student and teacher."""
        return partial_l2_loss(pred, target)
