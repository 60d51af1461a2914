"""Random shifts and mirroring of a batch of images together with its boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Movement:
    """A shift and a reflection for each of N images.

    Attributes:
        shift: (N, 2) int64, pixels to the right and downwards.
        mirrored: (N,) bool, whether the shifted image is then mirrored left to right.
    """

    shift: Tensor
    mirrored: Tensor

    def images(self, images: Tensor) -> Tensor:
        """The moved images (N, C, H, W); what leaves an image comes in on its other side.

        One gather for the batch: its gradient goes back to the pixels that were moved.
        """
        height, width = images.shape[-2:]
        across, down = self.shift.unbind(dim=1)
        columns = torch.arange(width, device=images.device).expand(len(images), -1)
        columns = torch.where(self.mirrored[:, None], width - 1 - columns, columns)
        columns = (columns - across[:, None]) % width
        rows = (torch.arange(height, device=images.device) - down[:, None]) % height
        numbers = torch.arange(len(images), device=images.device)
        return images.permute(0, 2, 3, 1)[
            numbers[:, None, None], rows[:, :, None], columns[:, None, :]
        ].permute(0, 3, 1, 2)

    def boxes(self, bboxes: Tensor, image: Tensor, width: int) -> Tensor:
        """The moved boxes.

        Args:
            bboxes: (M, 4) left, top, right, bottom in pixels, of all images.
            image: (M,) the image of each.
            width: Of the images, in pixels.
        """
        moved = bboxes + self.shift[image].repeat(1, 2)
        left, top, right, bottom = moved.unbind(dim=1)
        reflected = torch.stack([width - right, top, width - left, bottom], dim=1)
        return torch.where(self.mirrored[image, None], reflected, moved)


def room(bboxes: Tensor, image: Tensor, count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """How far images can be shifted with all of their boxes inside.

    Args:
        bboxes: (M, 4) left, top, right, bottom in pixels.
        image: (M,) the image of each, 0 to ``count - 1``.
        count: N.
        size: (height, width) of the images.

    Returns:
        (N, 2) least and (N, 2) greatest shift to the right and downwards, whole pixels: at most 0 and at least 0.
    """
    height, width = size
    extent = bboxes.new_tensor([width, height])
    index = image[:, None].expand(-1, 2)
    least = extent.expand(count, 2).scatter_reduce(0, index, bboxes[:, :2], "amin")
    most = bboxes.new_zeros(count, 2).scatter_reduce(0, index, bboxes[:, 2:], "amax")
    return -least.floor().clamp(min=0).long(), (extent - most).floor().clamp(min=0).long()


def random_movement(
    limits: tuple[Tensor, Tensor], jitter: int, flip_prob: float, generator: torch.Generator
) -> Movement:
    """Draw a movement for each image.

    Args:
        limits: Of :func:`room`.
        jitter: The greatest shift, in pixels; a box that reaches the border leaves less room.
        flip_prob: Probability of mirroring.
        generator: Of the CPU, so that every device draws the same.
    """
    device = limits[0].device
    least, most = limits[0].clamp(min=-jitter), limits[1].clamp(max=jitter)
    drawn = torch.rand(least.shape, generator=generator).to(device, non_blocking=True)
    shift = least + (drawn * (most - least + 1)).long().clamp(max=(most - least))
    mirrored = torch.rand(len(least), generator=generator) < flip_prob
    return Movement(shift, mirrored.to(device, non_blocking=True))
