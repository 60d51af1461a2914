"""Masked convolution: the gather and scatter around a convolution evaluated at chosen pixels only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_im2col_forward(
    features: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    data_col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Gather the receptive fields of the chosen output pixels.

    Args:
        features: ``(1, C, H, W)``, zero outside.
        mask_h_idx, mask_w_idx: Rows and columns ``(M,)`` of the chosen output pixels; the stride is 1.
        data_col: ``(C * kernel_h * kernel_w, M)``, filled in place.
        kernel_h, kernel_w: Size of the receptive field.
        pad_h, pad_w: Rows and columns of zeros before the first pixel.
    """
    # Up to the receptive field of the last pixel of the features, whatever padding follows it.
    padded = F.pad(features[0], (pad_w, kernel_w - 1, pad_h, kernel_h - 1))
    rows = mask_h_idx + torch.arange(kernel_h, device=mask_h_idx.device)[:, None, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=mask_w_idx.device)[:, None]
    data_col.copy_(padded[:, rows, columns].flatten(0, 2))


def masked_col2im_forward(
    data_col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    output: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Scatter the columns of ``data_col`` ``(channels, M)`` to their pixels of ``output`` ``(1, C, H, W)``."""
    output[0, :, mask_h_idx, mask_w_idx] = data_col.to(output.dtype)
