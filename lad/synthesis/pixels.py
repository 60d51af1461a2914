"""Scale between the images that a detector gets and pixels of 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmdet.models.detectors import BaseDetector
from torch import Tensor

#: Mean and standard deviation, in grey levels, of the pixels of a detector that does not normalise its images: those of
#: natural images. The optimiser then takes steps of the same size as with one that does.
NATURAL = (114.0, 58.0)


@dataclass(frozen=True, eq=False)
class PixelScale:
    """Affine scale in which images are optimised: value * std + mean is a grey level from 0 to 255.

    Attributes:
        mean, std: (C, 1, 1) in grey levels, in the order of the detector's channels.
        normalised: Whether the detector gets the values of this scale; otherwise grey levels.
        reversed_channels: Whether the detector's channels are in the reverse order of a file that is read as
            MMDetection reads it, blue first.
    """

    mean: Tensor
    std: Tensor
    normalised: bool
    reversed_channels: bool

    @classmethod
    def of(cls, model: BaseDetector, channels: int) -> PixelScale:
        """The scale of a detector's data preprocessor.

        Args:
            model: A detector.
            channels: The number of channels of its images.
        """
        preprocessor = model.data_preprocessor
        device = next(model.parameters()).device
        normalised = bool(getattr(preprocessor, "_enable_normalize", False))
        if normalised:
            mean, std = (getattr(preprocessor, name).float().to(device) for name in ("mean", "std"))
        else:
            mean, std = (torch.tensor([[[value]]], device=device) for value in NATURAL)
        return cls(
            mean=mean.expand(channels, 1, 1),
            std=std.expand(channels, 1, 1),
            normalised=normalised,
            reversed_channels=bool(getattr(preprocessor, "_channel_conversion", False)),
        )

    def clip(self, images: Tensor) -> Tensor:
        """Clip images to the values that a pixel of 8 bits can have."""
        return images.clamp((0 - self.mean) / self.std, (255 - self.mean) / self.std)

    def rounded(self, images: Tensor) -> Tensor:
        """The nearest images whose pixels have 8 bits, in this scale."""
        return (self._levels(images) - self.mean) / self.std

    def for_detector(self, images: Tensor) -> Tensor:
        """The images as the detector gets them from its data preprocessor."""
        return images if self.normalised else images * self.std + self.mean

    def to_bytes(self, images: Tensor) -> Tensor:
        """(N, H, W, C) uint8 pixels of images (N, C, H, W), red first."""
        levels = self._levels(images).to(torch.uint8)
        if not self.reversed_channels:
            levels = levels.flip(1)
        return levels.permute(0, 2, 3, 1).contiguous()

    def _levels(self, images: Tensor) -> Tensor:
        return (images * self.std + self.mean).round().clamp(0, 255)
