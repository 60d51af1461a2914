"""CARAFE: every upsampled pixel is a weighted sum of the window around its source pixel.

mmcv has a naive and a fast kernel of one definition; both names are implemented here. The sums run over the cells
of the window, for all pixels at once, in float32 or better.
"""

from __future__ import annotations

from collections.abc import Iterator

from lad.mmcv_ops.precision import upcast

import torch
import torch.nn.functional as F
from torch import Tensor


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Reassemble ``features``, zero outside, into ``output``.

    Args:
        features: ``(N, C, H, W)``.
        masks: Weights ``(N, group_size * kernel_size^2, H * scale_factor, W * scale_factor)``; a group of
            channels shares its window of weights.
        output: ``(N, C, H * scale_factor, W * scale_factor)``, filled in place.
        kernel_size: Odd side of the window, in pixels of ``features``.
        group_size: Number of groups of channels.
        scale_factor: Upsampled pixels per pixel of ``features`` and axis.
    """
    source, weights = upcast(features, masks)
    padded = _pad(_grouped(source, group_size), kernel_size)
    weights = _blocks(weights, group_size, scale_factor)
    total = torch.zeros_like(_blocks(output, group_size, scale_factor), dtype=source.dtype)
    for cell, rows, columns in _window(kernel_size, features.shape[-2:]):
        total += padded[..., rows, None, columns, None] * weights[:, :, cell, None]
    output.copy_(total.reshape_as(output))


def carafe_naive_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fill the gradients with respect to ``features`` and ``masks``; arguments as in the forward."""
    grad, source, weights = upcast(grad_output, features, masks)
    padded = _pad(_grouped(source, group_size), kernel_size)
    weights = _blocks(weights, group_size, scale_factor)
    grad = _blocks(grad, group_size, scale_factor)
    # Channels of a group share their weights, whose gradient has one entry per cell of the window.
    grad_padded = torch.zeros_like(padded)
    grad_weights = torch.empty_like(weights)
    for cell, rows, columns in _window(kernel_size, features.shape[-2:]):
        grad_padded[..., rows, columns] += (grad * weights[:, :, cell, None]).sum(dim=(-3, -1))
        grad_weights[:, :, cell] = (grad * padded[..., rows, None, columns, None]).sum(dim=2)
    reach = kernel_size // 2
    height, width = features.shape[-2:]
    grad_input.copy_(grad_padded[..., reach : reach + height, reach : reach + width].reshape_as(grad_input))
    grad_masks.copy_(grad_weights.reshape_as(grad_masks))


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As :func:`carafe_naive_forward`.

    mmcv's fast kernel works on reordered copies and keeps ``rfeatures`` for its backward, so that one is
    filled here too, in the order of ``features``.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rgrad_output: Tensor,
    rgrad_input_hs: Tensor,
    rgrad_input: Tensor,
    rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As :func:`carafe_naive_backward`, from the ``rfeatures`` that :func:`carafe_forward` kept."""
    carafe_naive_backward(
        grad_output, rfeatures, masks, grad_input, grad_masks, kernel_size, group_size, scale_factor
    )


def _grouped(features: Tensor, groups: int) -> Tensor:
    """``(N, C, H, W)`` as ``(N, groups, C / groups, H, W)``."""
    return features.unflatten(1, (groups, -1))


def _blocks(upsampled: Tensor, groups: int, scale: int) -> Tensor:
    """``(N, G * K, H * s, W * s)`` as ``(N, G, K, H, s, W, s)``: the pixels that share a source pixel."""
    return upsampled.unflatten(3, (-1, scale)).unflatten(2, (-1, scale)).unflatten(1, (groups, -1))


def _pad(features: Tensor, kernel_size: int) -> Tensor:
    """Pad with zeros by half the window."""
    return F.pad(features, (kernel_size // 2,) * 4)


def _window(kernel_size: int, size: torch.Size) -> Iterator[tuple[int, slice, slice]]:
    """Iterate over the window's cells in reading order, each with the slices of the padded features that it covers."""
    height, width = size
    for row in range(kernel_size):
        for column in range(kernel_size):
            yield row * kernel_size + column, slice(row, row + height), slice(column, column + width)
