"""Total variation of images."""

from __future__ import annotations

import torch
from torch import Tensor


def total_variation(images: Tensor) -> Tensor:
    """Anisotropic total variation with diagonals: the sum of the mean absolute differences in four directions.

    TV = mean |x[i, j] - x[i, j+1]| + mean |x[i, j] - x[i+1, j]| + mean |x[i, j] - x[i+1, j+1]| +
    mean |x[i, j+1] - x[i+1, j]|, over images, channels and places, so that neither the number nor the size of the
    images changes its scale. It is the l1 variation that Chawla et al. (DIODE, WACV 2021) penalise.

    Args:
        images: (N, C, H, W), H and W at least 2, in any unit.

    Returns:
        A scalar in the images' unit.

    Raises:
        ValueError: the images have a side of a single pixel.
    """
    if images.dim() != 4 or min(images.shape[-2:]) < 2:
        raise ValueError(f"images must be (N, C, H, W) with H and W of at least 2, got {tuple(images.shape)}")
    differences = (
        images[..., :, 1:] - images[..., :, :-1],
        images[..., 1:, :] - images[..., :-1, :],
        images[..., 1:, 1:] - images[..., :-1, :-1],
        images[..., 1:, :-1] - images[..., :-1, 1:],
    )
    return torch.stack([difference.abs().mean() for difference in differences]).sum()
