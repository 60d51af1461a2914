"""Factor transfer: paraphraser, translator and the distance of their factors."""

from __future__ import annotations

from itertools import pairwise

from lad.base.settings import check_numbers
from lad.errors import ConfigError
from lad.losses.feature import FeatureLoss, check_maps
from lad.losses.precision import upcast, upcast_pair

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

#: Factors shorter than this count as none, so that the gradient of a dead one does not overflow half precision.
TINY = 1e-3
LEAKY = dict(type="LeakyReLU", negative_slope=0.1)


def factor_transfer_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """L1 distance of two factors of length 1, for each image.

    Kim et al., "Paraphrasing Complex Network: Network Compression via Factor Transfer", NeurIPS 2018, arXiv 1802.04977,
    Eq. 2 with p = 1: || F_T / ||F_T||_2 - F_S / ||F_S||_2 ||_1, divided by the number of their elements, as in the
    authors' code, which is what its weight of 500 goes with. Computed in float32.

    Args:
        student: The translator's factor, (N, C, H, W), any float dtype.
        teacher: The paraphraser's, (N, C, H, W); no gradient flows to it.

    Returns:
        (N,) float32.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> from lad.losses import factor_transfer_loss
        >>> student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        >>> factor_transfer_loss(student, teacher)
        tensor([1.])
    """
    check_maps(student, teacher)
    student, teacher = (_unit(factor) for factor in upcast_pair(student, teacher))
    return (student - teacher).abs().mean(dim=1)


def _unit(factor: Tensor) -> Tensor:
    return F.normalize(factor.flatten(1), dim=1, eps=TINY)


class Factors(nn.Sequential):
    """Three convolutions with leaky ReLUs, of which the second changes the channels; any float dtype in.

    Kim et al., NeurIPS 2018, Sec. 3 and the authors' code, which has no batch norm.

    Args:
        in_channels: Of the map.
        out_channels: Of the factor.
        transposed: Whether they are transposed convolutions, as in a decoder.
    """

    def __init__(self, in_channels: int, out_channels: int, transposed: bool = False) -> None:
        conv_cfg = dict(type="deconv") if transposed else None
        widths = [in_channels, in_channels, out_channels, out_channels]
        super().__init__(
            *[
                ConvModule(before, after, 3, padding=1, conv_cfg=conv_cfg, act_cfg=LEAKY)
                for before, after in pairwise(widths)
            ]
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W)."""
        # A teacher in half precision has another type than the weights.
        return super().forward(features.to(next(self.parameters()).dtype))


@MODELS.register_module()
class Paraphraser(BaseModule):
    """An autoencoder of the teacher's map, whose code is the teacher's factor.

    Kim et al., NeurIPS 2018, Sec. 3.1.

    Args:
        in_channels: Of the teacher's map.
        rate: k: the factor has k times as many channels.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: the rate leaves no channel.
    """

    def __init__(self, in_channels: int, rate: float = 0.5, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        check_numbers("Paraphraser", above=0, rate=rate)
        channels = round(in_channels * rate)
        if channels < 1:
            raise ConfigError(f"Paraphraser: a rate of {rate} leaves nothing of {in_channels} channels.")
        self.encoder = Factors(in_channels, channels)
        self.decoder = Factors(channels, in_channels, transposed=True)

    def forward(self, features: Tensor) -> Tensor:
        """The factor (N, k C, H, W) of a map (N, C, H, W)."""
        return self.encoder(features)

    def reconstruction_loss(self, features: Tensor) -> Tensor:
        """|| x - P(x) ||^2, Eq. 1, as a mean over everything; a scalar, float32."""
        return F.mse_loss(upcast(self.decoder(self.encoder(features))), upcast(features))


@MODELS.register_module()
class Translator(BaseModule):
    """Encoder of the student's map into a factor: built as the encoder of :class:`Paraphraser`.

    Kim et al., NeurIPS 2018, Sec. 3.2.

    Args:
        in_channels: Of the student's map.
        out_channels: Of the teacher's factor.
        init_cfg: As in MMEngine.
    """

    def __init__(self, in_channels: int, out_channels: int, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.encoder = Factors(in_channels, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W)."""
        return self.encoder(features)


@MODELS.register_module()
class FTLoss(FeatureLoss):
    """:func:`factor_transfer_loss`, averaged over the images.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the images.
        loss_weight: Factor of the result; 500 is the authors' beta.

    Example:
        >>> import torch
        >>> from lad.losses import FTLoss
        >>> student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        >>> FTLoss()(student, teacher)
        tensor(500.)
    """

    connector = dict(type="Translator")

    def __init__(self, reduction: str = "mean", loss_weight: float = 500.0) -> None:
        super().__init__(reduction, loss_weight)

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N,) the loss of each image, of the factors of student and teacher."""
        return factor_transfer_loss(pred, target)
