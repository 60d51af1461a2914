"""Activation boundary loss."""

from __future__ import annotations

from lad.base.settings import check_numbers
from lad.losses.feature import FeatureLoss, check_maps
from lad.losses.precision import upcast_pair

import torch
from mmdet.registry import MODELS
from torch import Tensor


def activation_boundary_loss(student: Tensor, teacher: Tensor, margin: float = 1.0) -> Tensor:
    """Squared hinge loss that moves a student's neurons to the teacher's side of the activation boundary, per image.

    Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons", AAAI 2019,
    arXiv 1811.03233, Eq. 6: with responses before the ReLU, T and S, and the margin m,

        || 1(T > 0) relu(m 1 - S) + 1(T <= 0) relu(m 1 + S) ||^2,

    which is 0 as soon as every neuron is on the teacher's side by the margin. The paper adds up the neurons of small
    images; this is their mean, which does not depend on the size of an image. Computed in float32.

    Args:
        student: (N, C, H, W), any float dtype.
        teacher: (N, C, H, W); no gradient flows to it.
        margin: m, not negative.

    Returns:
        (N,) float32.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> from lad.losses import activation_boundary_loss
        >>> student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        >>> activation_boundary_loss(student, teacher)
        tensor([2.5000])
    """
    check_maps(student, teacher)
    student, teacher = upcast_pair(student, teacher)
    short = margin - torch.where(teacher > 0, student, -student)
    # A comparison with NaN is false, which would pass for an inactive neuron.
    short = torch.where(teacher.isnan(), teacher, short)
    return short.relu().square().flatten(1).mean(dim=1)


@MODELS.register_module()
class ABLoss(FeatureLoss):
    """:func:`activation_boundary_loss`, averaged over the images.

    The connector is the paper's: a 1x1 convolution and a batch norm.

    Args:
        margin: m; 1 in the paper and in the authors' code.
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the images.
        loss_weight: Factor of the result.

    Raises:
        ConfigError: the margin is negative.

    Example:
        >>> import torch
        >>> from lad.losses import ABLoss
        >>> student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        >>> ABLoss(margin=2.0)(student, teacher)
        tensor(6.5000)
    """

    connector = dict(type="ConvModule", kernel_size=1, norm_cfg=dict(type="BN"), act_cfg=None)

    def __init__(self, margin: float = 1.0, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        check_numbers("ABLoss", minimum=0, margin=margin)
        self.margin = margin

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N,) the loss of each image, of the responses of student and teacher."""
        return activation_boundary_loss(pred, target, self.margin)
