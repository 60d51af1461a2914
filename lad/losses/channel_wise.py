"""Channel-wise distillation loss."""

from __future__ import annotations

from lad.base.settings import check_numbers
from lad.losses.feature import FeatureLoss, check_maps
from lad.losses.precision import upcast_pair

from mmdet.registry import MODELS
from torch import Tensor


def channel_wise_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(phi(t) || phi(s)) of each channel, phi the softmax of y / T over the positions of a channel.

    Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, arXiv 2011.13256, Sec. 3.2:
    L = T^2 / C sum_c sum_i phi(t_c,i) log(phi(t_c,i) / phi(s_c,i)). Adding a number to a channel changes nothing.
    Computed in float32.

    Args:
        student: (N, C, H, W), any float dtype.
        teacher: (N, C, H, W); no gradient flows to it.
        temperature: T, above 0.

    Returns:
        (N, C) float32; the paper's loss is its mean.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses import channel_wise_divergence
        >>> student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        >>> channel_wise_divergence(student, teacher)
        tensor([[0.4621]])
    """
    check_maps(student, teacher)
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    student, teacher = upcast_pair(student, teacher)
    own = (student.flatten(2) / temperature).log_softmax(dim=2)
    target = (teacher.flatten(2) / temperature).log_softmax(dim=2)
    return temperature**2 * (target.exp() * (target - own)).sum(dim=2)


@MODELS.register_module()
class CWDLoss(FeatureLoss):
    """:func:`channel_wise_divergence`, averaged over images and channels.

    Args:
        temperature: T. The authors' detectors have 1 on feature maps, with a weight of 5 a level.
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over images and channels.
        loss_weight: Factor of the result.

    Example:
        >>> import torch
        >>> from lad.losses import CWDLoss
        >>> student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        >>> CWDLoss(loss_weight=5.0)(student, teacher)
        tensor(2.3106)
    """

    def __init__(self, temperature: float = 1.0, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        check_numbers(type(self).__name__, above=0, temperature=temperature)
        self.temperature = temperature

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N, C) the loss of each channel, of the maps of student and teacher."""
        return channel_wise_divergence(pred, target, self.temperature)
