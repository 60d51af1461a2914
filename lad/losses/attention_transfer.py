"""Attention transfer loss."""

from __future__ import annotations

from lad.base.settings import check_numbers
from lad.errors import ConfigError
from lad.losses.feature import FeatureLoss, check_maps
from lad.losses.precision import upcast, upcast_pair

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

#: Features smaller than this have no direction: their attention map shrinks to 0 instead of having length 1.
TINY = 1e-12
#: The same for features in float16: the gradient grows as one over the features, and would overflow.
TINY_FLOAT16 = 2e-3


def attention_map(features: Tensor, power: float = 2.0) -> Tensor:
    """Compute the spatial attention map: the sum over channels of |A|^p, as a vector of length 1 for each image.

    Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv 1612.03928, Sec. 3.1: F_sum^p,
    divided by its L2 norm as in Eq. 2. Computed in float32 on features divided by the largest of their image, which
    changes nothing and cannot overflow.

    Args:
        features: (N, C, H, W), any float dtype.
        power: p.

    Returns:
        (N, H * W) float32; zeros for an image without any activation.
    """
    size = upcast(features).abs()
    # The result does not depend on this factor, so neither does the gradient.
    tiny = TINY_FLOAT16 if features.dtype == torch.float16 else TINY
    size = size / size.detach().amax(dim=(1, 2, 3), keepdim=True).clamp(min=tiny)
    # The largest value is 1, and so is the length at least, unless all are tiny.
    return F.normalize(size.pow(power).sum(dim=1).flatten(1), dim=1, eps=1.0)


def attention_transfer_loss(
    student: Tensor, teacher: Tensor, power: float = 2.0, squared: bool = True
) -> Tensor:
    """Distance of the attention maps of two networks, per image: ||Q_s / ||Q_s|| - Q_t / ||Q_t||||^2 / (H W).

    Zagoruyko and Komodakis, ICLR 2017, Eq. 2, with Q of :func:`attention_map`. Eq. 2 has the norm itself and beta / 2;
    the authors' code (github.com/szagoruyko/attention-transfer) has the mean of squares and beta, which is what its
    beta of 1000 goes with. Both are divided by the number of positions, as the paper divides its beta, so that a
    ``loss_weight`` of 1000 is the paper's 10^3.

    Args:
        student: (N, C, H, W), any float dtype.
        teacher: (N, C', H, W); the channels may be others. No gradient flows to it.
        power: p, the paper's is 2.
        squared: The squared norm, as in the authors' code; otherwise half the norm, as in Eq. 2.

    Returns:
        (N,) float32.

    Raises:
        ValueError: the sizes differ.

    Example:
        >>> import torch
        >>> from lad.losses import attention_transfer_loss
        >>> student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        >>> attention_transfer_loss(student, teacher)
        tensor([1.])
    """
    check_maps(student, teacher, same_channels=False)
    difference = torch.sub(
        *upcast_pair(attention_map(student, power), attention_map(teacher.detach(), power))
    )
    distance = difference.square().sum(dim=1)
    if not squared:
        # At equality the norm has no gradient; this has 0.
        distance = 0.5 * (distance + TINY**2).sqrt() - 0.5 * TINY
    return distance / difference.shape[1]


@MODELS.register_module()
class ATLoss(FeatureLoss):
    """:func:`attention_transfer_loss`, averaged over the images.

    Args:
        power: p.
        squared: The squared norm of the authors' code, or the norm of the paper's Eq. 2.
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the images.
        loss_weight: Factor of the result; 1000 is the paper's.

    Example:
        >>> import torch
        >>> from lad.losses import ATLoss
        >>> student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        >>> ATLoss()(student, teacher)
        tensor(1000.)
    """

    same_channels = False

    def __init__(
        self,
        power: float = 2.0,
        squared: bool = True,
        reduction: str = "mean",
        loss_weight: float = 1000.0,
    ) -> None:
        super().__init__(reduction, loss_weight)
        check_numbers("ATLoss", power=power)
        if power < 1:
            raise ConfigError(f"ATLoss: power must be at least 1, got {power!r}: below, 0 has no gradient.")
        self.power = power
        self.squared = squared

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N,) the loss of each image, of the maps of student and teacher."""
        return attention_transfer_loss(pred, target, self.power, self.squared)
