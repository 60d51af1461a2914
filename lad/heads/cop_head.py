"""PAA head with conditional objectness prediction."""

from __future__ import annotations

from typing import Any

from lad.errors import ConfigError
from lad.heads.objectness_head import ObjectnessPAAHead

import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class PAACOPHead(ObjectnessPAAHead):
    """PAA head with conditional objectness prediction (COP).

    A location's class probability is taken over its k x k neighbourhood, each neighbour's being weighted by a
    coefficient that the location predicts from its regression feature:

        p(c | x) = 1 / k^2  sum_i  sigmoid(coeff_i(x)) * sigmoid(cls_c(x + d_i)),   i over the k^2 offsets d_i.

    The k^2 coefficients are the same for all classes.

    Nguyen et al., WACV 2022, arXiv 2108.10520, appendix; the formula follows the authors' code, whose layer
    names are kept.

    Args:
        coeff_kernel_size: k, odd.
        border_prob: Class probability of neighbours outside of the map. 0.5 corresponds to the authors' zero padding of
            the logits; with 0 neighbours outside do not contribute.
        args, kwargs: As for :class:`ObjectnessPAAHead`.

    Raises:
        ConfigError: ``coeff_kernel_size`` is even or not positive, or ``border_prob`` is no probability.
    """

    def __init__(
        self, *args: Any, coeff_kernel_size: int = 3, border_prob: float = 0.5, **kwargs: Any
    ) -> None:
        if coeff_kernel_size < 1 or coeff_kernel_size % 2 == 0:
            raise ConfigError(
                f"PAACOPHead: coeff_kernel_size must be odd, so that it has a centre, got {coeff_kernel_size}."
            )
        if not 0 <= border_prob <= 1:
            raise ConfigError(f"PAACOPHead: border_prob must be in [0, 1], got {border_prob}.")
        self.coeff_kernel_size = coeff_kernel_size
        self.border_prob = border_prob
        super().__init__(*args, **kwargs)

    def _init_objectness(self) -> None:
        self.coeff_conv = nn.Conv2d(self.feat_channels, self.coeff_kernel_size**2, 3, padding=1)

    def class_scores(self, cls_logits: Tensor, reg_feat: Tensor) -> Tensor:  # noqa: D102
        coeffs = self.coeff_conv(reg_feat).float().sigmoid()
        reach = self.coeff_kernel_size // 2
        height, width = cls_logits.shape[-2:]
        probs = F.pad(cls_logits.float().sigmoid(), [reach] * 4, value=self.border_prob)
        total = probs.new_zeros(())
        # A loop over the few offsets: unfolding would need k^2 copies of the class scores and their sigmoids.
        for offset, coeff in enumerate(coeffs.split(1, dim=1)):
            row, column = divmod(offset, self.coeff_kernel_size)
            total = total + coeff * probs[:, :, row : row + height, column : column + width]
        return total / self.coeff_kernel_size**2
