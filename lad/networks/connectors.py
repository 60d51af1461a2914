"""Adaptation layers between a student's and a teacher's features."""

from __future__ import annotations

from collections.abc import Sequence

from lad.base.settings import is_number, is_whole
from lad.errors import ConfigError, UnsupportedError

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Size, Tensor, nn


@MODELS.register_module()
class ConvConnector(BaseModule):
    """A convolution between feature maps of (N, C, H, W); 1x1 by default.

    Args:
        in_channels: The student's channels.
        out_channels: The teacher's channels.
        kernel_size: Odd, so that the map keeps its size.
        bias: Whether it has a bias.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: the size is even.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        bias: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not is_whole(kernel_size) or kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigError(
                f"{type(self).__name__}: kernel_size must be odd, so that the map keeps its size, got "
                f"{kernel_size!r:.60}."
            )
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W)."""
        return self.conv(features)


@MODELS.register_module()
class LinearConnector(BaseModule):
    """A linear layer between features whose channels come last, (N, C) or (N, L, C).

    Args:
        in_channels: The student's channels.
        out_channels: The teacher's channels.
        bias: Whether it has a bias.
        init_cfg: As in MMEngine.
    """

    def __init__(
        self, in_channels: int, out_channels: int, bias: bool = True, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.linear = nn.Linear(in_channels, out_channels, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """(..., in_channels) to (..., out_channels)."""
        return self.linear(features)


@MODELS.register_module()
class IdentityConnector(BaseModule):
    """No adaptation: for features that have the same channels and are to be compared as they are.

    Args:
        in_channels, out_channels: Must agree.
        init_cfg: As in MMEngine.

    Raises:
        UnsupportedError: they do not agree.
    """

    def __init__(self, in_channels: int, out_channels: int, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        if in_channels != out_channels:
            raise UnsupportedError(
                f"IdentityConnector: the student has {in_channels} channels and the teacher {out_channels}; "
                "use ConvConnector."
            )

    def forward(self, features: Tensor) -> Tensor:
        """The features themselves."""
        return features


@MODELS.register_module()
class MaskedGenerationConnector(BaseModule):
    """The teacher's map, generated from what is left of the student's when positions are left out at random.

    Yang et al., "Masked Generative Distillation", ECCV 2022, arXiv 2205.01529, Sec. 3.2: channels aligned by a 1x1
    convolution (none where they agree), positions masked, then convolution 3x3, ReLU, convolution 3x3. The mask is one
    for all channels, and another for each image and step.

    Args:
        in_channels: The student's channels.
        out_channels: The teacher's channels.
        mask_ratio: The part of the positions that is left out: the paper's lambda, 0.65 for one-stage and 0.45 for
            two-stage detectors.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: the ratio is not in [0, 1).
    """

    def __init__(
        self, in_channels: int, out_channels: int, mask_ratio: float = 0.65, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not is_number(mask_ratio) or not 0 <= mask_ratio < 1:
            raise ConfigError(
                f"MaskedGenerationConnector: mask_ratio must be in [0, 1), got {mask_ratio!r:.60}."
            )
        self.mask_ratio = mask_ratio
        self.align = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        self.generation = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W)."""
        aligned = self.align(features)
        kept = torch.rand_like(aligned[:, :1], dtype=torch.float32) >= self.mask_ratio
        return self.generation(aligned * kept)


def build_connector(config: dict | None, student: Size, teacher: Size) -> nn.Module:
    """The adaptation layer between two features of known shapes.

    Args:
        config: A connector's config; ``in_channels`` and ``out_channels`` are filled in. None: a 1x1 convolution for
            feature maps, a linear layer for other features.
        student: Shape of the student's features: (N, C, H, W), (N, L, C) or (N, C).
        teacher: Shape of the teacher's.

    Raises:
        UnsupportedError: no layer leads from the one to the other.
    """
    if len(student) != len(teacher) or not 2 <= len(student) <= 4:
        raise UnsupportedError(
            f"no connector leads from features of shape {tuple(student)} (student) to {tuple(teacher)} (teacher): "
            "both must be maps (N, C, H, W), sequences (N, L, C) or vectors (N, C)."
        )
    if len(student) == 3 and student[1] != teacher[1]:
        raise UnsupportedError(
            f"the student's features are sequences of {student[1]} tokens and the teacher's of {teacher[1]}: "
            "choose modules that see the image in the same parts."
        )
    channels = 1 if len(student) == 4 else -1
    config = dict(config or dict(type="ConvConnector" if len(student) == 4 else "LinearConnector"))
    config.setdefault("in_channels", student[channels])
    config.setdefault("out_channels", teacher[channels])
    return MODELS.build(config)


def match_size(features: Tensor, size: Sequence[int]) -> Tensor:
    """Feature maps at another resolution: averaged where they are larger, bilinear where they are smaller.

    Args:
        features: (N, C, H, W).
        size: Wanted height and width.

    Returns:
        (N, C, *size); the features themselves where nothing is to be done.
    """
    own, size = tuple(features.shape[-2:]), tuple(size)
    if own == size:
        return features
    smaller = (min(own[0], size[0]), min(own[1], size[1]))
    if smaller != own:
        features = F.adaptive_avg_pool2d(features, smaller)
    if smaller != size:
        features = F.interpolate(features, size, mode="bilinear", align_corners=False)
    return features


def tokens_to_map(tokens: Tensor, image_size: Sequence[int]) -> Tensor:
    """A sequence of tokens, row by row, as the map it is: a transformer's stage as a convolution's.

    Args:
        tokens: (N, L, C).
        image_size: Height and width in pixels of the images that the tokens cover; from them follow the map's.

    Returns:
        (N, C, H, W) with H W = L.

    Raises:
        UnsupportedError: no stride of a power of two, nor 14 or 28, makes so many tokens of the images.
    """
    count = tokens.shape[1]
    for stride in (1, 2, 4, 8, 16, 32, 64, 128, 14, 28):
        # Patches are padded at the edges, or left out there.
        for edge in (stride - 1, 0):
            height, width = ((side + edge) // stride for side in image_size)
            if height * width == count:
                return tokens.transpose(1, 2).unflatten(2, (height, width))
    raise UnsupportedError(
        f"{count} tokens are no map of an image of {image_size[0]} x {image_size[1]} pixels: name a module that "
        "returns maps, such as 'backbone' or 'neck'."
    )
