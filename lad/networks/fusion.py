"""Fusion of several networks' feature maps, and the way from a deep map back to shallower ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lad.errors import UnsupportedError

import torch
from mmcv.cnn import DepthwiseSeparableConvModule, build_norm_layer
from mmengine.model import BaseModule, ModuleList
from torch import Size, Tensor, nn


class LevelwiseSeparableConv(BaseModule):
    """A depthwise 3x3 and a 1x1 convolution for each level of a pyramid, each with a norm and a ReLU.

    Li et al., "Distilling a Powerful Student Model via Online Knowledge Distillation" (FFSD), TNNLS 2022, arXiv
    2103.14473, fuse feature maps so. Each level has convolutions of its own, as levels have statistics of their own.

    Args:
        in_channels: Channels of each level.
        out_channels: Likewise.
        norm_cfg: Config of the norm after each convolution.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: Sequence[int], norm_cfg: dict) -> None:
        super().__init__()
        self.levels = ModuleList(
            DepthwiseSeparableConvModule(own, out, 3, padding=1, norm_cfg=norm_cfg)
            for own, out in zip(in_channels, out_channels, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """(N, in_channels, H, W) of each level to (N, out_channels, H, W)."""
        return [level(features) for level, features in zip(self.levels, maps, strict=True)]


@dataclass(frozen=True)
class DeepAndShallow:
    """A network's deep map and the maps of its backbone before it, each of which is twice as large as the next.

    Attributes:
        level: Number of the neck's map that is as large as the backbone's last.
        stages: Numbers of the backbone's maps before its last, from deep to shallow.
        deep_channels: Channels of the former.
        channels: Channels of the latter.
    """

    level: int
    stages: tuple[int, ...]
    deep_channels: int
    channels: tuple[int, ...]


def find_deep_and_shallow(backbone: Sequence[Tensor], neck: Sequence[Tensor], name: str) -> DeepAndShallow:
    """Find the maps of a network between which deep features distil shallower ones.

    Maps of the backbone that are larger than the neck's first are left out: no head sees them.

    Args:
        backbone: Its backbone's maps in a dry run.
        neck: Its neck's.
        name: Its name, for messages.

    Raises:
        UnsupportedError: there are none.
    """
    sizes = [each.shape[-2:] for each in backbone]
    level = next((number for number, each in enumerate(neck) if each.shape[-2:] == sizes[-1]), None)
    stages = [number for number in range(len(sizes) - 2, -1, -1) if sizes[number][0] <= neck[0].shape[-2]]
    halves = all(sizes[number][axis] == 2 * sizes[number + 1][axis] for number in stages for axis in (0, 1))
    if level is None or not stages or not halves:
        raise UnsupportedError(
            f"network {name}: self-distillation from deep to shallow needs a backbone whose maps halve in size from "
            f"stage to stage and a neck with a map as large as the last; its maps are {_sizes(backbone)} and "
            f"{_sizes(neck)} for zero images: upsampling_weight=0 leaves it out."
        )
    return DeepAndShallow(
        level, tuple(stages), neck[level].shape[1], tuple(backbone[number].shape[1] for number in stages)
    )


def _sizes(maps: Sequence[Tensor]) -> str:
    return ", ".join(f"{each.shape[-2]}x{each.shape[-1]}" for each in maps)


class DeepToShallow(BaseModule):
    """Transposed convolutions from a deep map to shallower ones, each twice as large as the one before.

    The self-distillation module of FFSD (Li et al., TNNLS 2022, arXiv 2103.14473): 3x3, stride 2, a norm and a ReLU.

    Args:
        in_channels: Channels of the deep map.
        channels: Channels of the maps, from deep to shallow.
        norm_cfg: Config of the norms.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], norm_cfg: dict) -> None:
        super().__init__()
        widths = [in_channels, *channels]
        self.upsample = ModuleList(
            nn.ConvTranspose2d(own, out, 3, stride=2, padding=1, bias=False)
            for own, out in zip(widths, channels, strict=False)
        )
        self.norms = ModuleList(build_norm_layer(norm_cfg, width)[1] for width in channels)

    def forward(self, deep: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
        """The shallower maps.

        Args:
            deep: (N, in_channels, H, W).
            sizes: Height and width of each; 2 H or 2 H - 1 of the one before, where the network rounded up.

        Returns:
            (N, channels, *size) of each.
        """
        maps = []
        # Each is made from the one before.
        for upsample, norm, size in zip(self.upsample, self.norms, sizes, strict=True):
            deep = torch.relu(norm(upsample(deep, output_size=list(size))))
            maps.append(deep)
        return maps
