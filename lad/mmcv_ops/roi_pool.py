"""RoIPool with the rounding of mmcv's kernel.

torchvision's operator rounds the corners of a region to whole pixels first. mmcv rounds only the bounds of
each bin, outwards, and includes the far side of the region's last pixel.
"""

from __future__ import annotations

from lad.mmcv_ops.precision import upcast

import torch
from torch import Tensor

# Initial value of mmcv's search for a maximum, whatever the dtype.
LOWEST = torch.finfo(torch.float32).min


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Maximum of every bin of every region; an empty bin or region gives 0.

    Args:
        input: Features ``(N, C, H, W)``.
        rois: ``(R, 5)`` as ``(image index, x1, y1, x2, y2)`` in pixels of the image.
        output: ``(R, C, pooled_height, pooled_width)``, filled in place.
        argmax: As ``output``; filled with the position ``y * W + x`` of the first maximum in reading order,
            -1 where nothing was pooled.
        pooled_height, pooled_width: Number of bins.
        spatial_scale: Feature pixels per image pixel.
    """
    if output.numel() == 0:
        return
    features, rois = upcast(input, rois)
    height, width = features.shape[2:]
    y_first, y_end = _bins(rois[:, 2], rois[:, 4], spatial_scale, pooled_height, height)
    x_first, x_end = _bins(rois[:, 1], rois[:, 3], spatial_scale, pooled_width, width)

    # One step per cell of the largest bin, for all regions, bins and channels at once, in reading order.
    rows, columns = torch.stack([(y_end - y_first).max(), (x_end - x_first).max()]).tolist()
    pixels = features.flatten(2).transpose(1, 2).contiguous()
    image = rois[:, 0].long()[:, None, None]
    best = features.new_full((len(rois), pooled_height, pooled_width, features.shape[1]), LOWEST)
    position = torch.full_like(best, -1, dtype=torch.long)
    for y in (y_first + row for row in range(rows)):
        for x in (x_first + column for column in range(columns)):
            inside = (y < y_end)[:, :, None] & (x < x_end)[:, None, :]
            cell = y.clamp(max=height - 1)[:, :, None] * width + x.clamp(max=width - 1)[:, None, :]
            value = pixels[image, cell]
            better = inside[..., None] & (value > best)
            best = torch.where(better, value, best)
            position = torch.where(better, cell[..., None], position)

    empty = (y_end <= y_first)[:, :, None] | (x_end <= x_first)[:, None, :]
    output.copy_(best.masked_fill(empty[..., None], 0).permute(0, 3, 1, 2))
    argmax.copy_(position.permute(0, 3, 1, 2))


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Route each bin's gradient to its maximum: fills ``grad_input`` ``(N, C, H, W)``.

    A region that ends before it starts has no gradient. mmcv leaves its argmax at 0 and so adds its gradient
    to the image's first pixel, though its output is a constant.
    """
    grad, like = upcast(grad_output, grad_input)
    _, channels, height, width = like.shape
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    target = plane[:, :, None, None] * (height * width) + argmax.clamp(min=0)
    gradient = torch.zeros_like(like).flatten()
    gradient.scatter_add_(0, target.flatten(), grad.masked_fill(argmax < 0, 0).flatten())
    grad_input.copy_(gradient.view_as(like))


def _bins(start: Tensor, stop: Tensor, scale: float, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """First pixel and end (exclusive) of ``bins`` bins along one axis of ``size`` pixels, each ``(R, bins)``.

    A region without extent has bins that end where they start.
    """
    start = (start * scale)[:, None]
    extent = ((stop + 1) * scale)[:, None] - start
    index = torch.arange(bins, device=start.device)
    first = (index * (extent / bins) + start).floor().clamp(0, size).long()
    end = ((index + 1) * (extent / bins) + start).ceil().clamp(0, size).long()
    return first, torch.where(extent > 0, end, first)
