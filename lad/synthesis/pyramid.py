"""Images as sums of levels of several resolutions, whose coarse structures an optimiser changes in few steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


class Pyramid:
    """Images x = z_0 + up(z_1) + ... + up(z_{n-1}); level k has 1/2^k of the sides, and `up` is bilinear.

    Adam changes every parameter by about the learning rate in a step, whatever its gradient's size: what a step does to
    a large area is many pixels' agreement in the image and one parameter in a coarse level. With one level the
    parameters are the pixels.

    Args:
        images: (N, C, H, W), what the finest level starts from; the others start from 0.
        levels: n, at least 1; as many as leave sides of at least 2 pixels.
    """

    def __init__(self, images: Tensor, levels: int) -> None:
        self.size = images.shape[-2:]
        self.levels = [images.clone().requires_grad_()]
        for level in range(1, levels):
            height, width = (-(-side // 2**level) for side in self.size)
            if min(height, width) < 2:
                break
            self.levels.append(images.new_zeros(*images.shape[:2], height, width).requires_grad_())

    def images(self) -> Tensor:
        """The images (N, C, H, W); differentiable."""
        total = self.levels[0]
        for level in self.levels[1:]:
            total = total + F.interpolate(level, size=self.size, mode="bilinear", align_corners=False)
        return total

    @torch.no_grad()
    def project(self, project: Callable[[Tensor], Tensor]) -> Tensor:
        """Move the images to others by a change of the finest level; returns them without gradient.

        Args:
            project: From the images as they are to those that they are to be.
        """
        images = self.images()
        projected = project(images)
        self.levels[0] += projected - images
        return projected
