"""How an image becomes an input of an exported detector: resized, padded, not normalised."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from lad.errors import ConfigError, DataError
from lad.export.steps import pixel_steps

import cv2
import numpy as np
from mmengine.config import Config


@dataclass(frozen=True)
class InputRule:
    """The test pipeline's resizing and padding, to one size for all images.

    Attributes:
        shape: (height, width) of the input, in pixels.
        limit: (height, width) that an image is resized to fit into.
        keep_ratio: Whether it keeps its proportions; otherwise it is stretched to the limit.
        pad_value: Of each channel, in the order in which images are loaded (BGR).
    """

    shape: tuple[int, int]
    limit: tuple[int, int]
    keep_ratio: bool
    pad_value: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(most > size for most, size in zip(self.limit, self.shape, strict=True)):
            raise ConfigError(f"images of {self.limit} pixels do not fit into an input of {self.shape}.")

    def prepare(self, image: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
        """Resize and pad one image.

        Args:
            image: (h, w, C) uint8, BGR.

        Returns:
            (C, height, width) uint8, and the factors by which the image's width and height were multiplied.

        Raises:
            DataError: the image is so thin that nothing is left of a side. MMCV's ``Resize`` cannot resize it either.
        """
        height, width = image.shape[:2]
        most_height, most_width = self.limit
        if self.keep_ratio:
            # As mmcv rounds.
            factor = min(most_width / width, most_height / height)
            size = (int(width * factor + 0.5), int(height * factor + 0.5))
        else:
            size = (most_width, most_height)
        if min(size) < 1:
            raise DataError(
                f"an image of {width} x {height} pixels is too thin: with its proportions it would be {size[0]} x "
                f"{size[1]} in an input of {self.shape[1]} x {self.shape[0]}; leave it out, or cut it into parts."
            )
        resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        padded = self.canvas(image.shape[2])
        padded[: size[1], : size[0]] = resized
        return padded.transpose(2, 0, 1), (size[0] / width, size[1] / height)

    def canvas(self, channels: int) -> np.ndarray:
        """An input of nothing but padding, (height, width, channels) uint8."""
        padded = np.empty((*self.shape, channels), np.uint8)
        padded[:] = np.rint(self.pad_value)
        return padded

    def lies_across(self, image: np.ndarray) -> bool:
        """Whether an image (h, w, C) is upright and the input is wider than high, or the other way round.

        MMDetection turns the size that it resizes to; an input does not turn, so the image is smaller in it.
        """
        own, most = image.shape[0] - image.shape[1], self.limit[0] - self.limit[1]
        return self.keep_ratio and own * most < 0

    def to_json(self) -> str:
        """For the metadata of a file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> InputRule:
        """Read :meth:`to_json`'s."""
        made = json.loads(text)
        return cls(
            shape=tuple(made["shape"]),
            limit=tuple(made["limit"]),
            keep_ratio=made["keep_ratio"],
            pad_value=tuple(made["pad_value"]),
        )


def input_rule(cfg: Config, shape: tuple[int, int] | None = None) -> InputRule:
    """The rule of a config's test pipeline and data preprocessor.

    A pipeline that pads each batch as its images want it gets inputs of one size: for ``Resize(scale=(1333, 800))``
    and a divisor of 32 it is 800 x 1344, for images that are wider than high.

    Args:
        cfg: A plain detector's.
        shape: (height, width) of the input instead of the pipeline's; a multiple of the divisor.

    Raises:
        ConfigError: the pipeline sets no size and none is given.
        UnsupportedError: a step of the pipeline changes the pixels otherwise; see
            :func:`lad.export.steps.pixel_steps`.
    """
    steps = pixel_steps(cfg)
    resize, pad = steps.resize, steps.pad or {}
    preprocessor = cfg.model.get("data_preprocessor") or {}
    divisor = math.lcm(int(preprocessor.get("pad_size_divisor", 1)), int(pad.get("size_divisor") or 1))
    value = _pad_value(preprocessor, steps.pad)
    keep_ratio = bool(resize.get("keep_ratio", False)) if resize is not None else True
    if shape is not None:
        if any(size < 1 or size % divisor for size in shape):
            raise ConfigError(f"the input's height and width must be multiples of {divisor}, got {shape}.")
        return InputRule(shape, shape, keep_ratio, value)
    scale = None if resize is None else resize.get("scale")
    if isinstance(scale, int):
        scale = (scale, scale)
    if not isinstance(scale, (tuple, list)):
        raise ConfigError("the test pipeline has no Resize with a scale: give the input's size with --shape.")
    width, height = (int(size) for size in scale)
    limit = size = (height, width)
    if pad.get("pad_to_square"):
        size = (max(limit), max(limit))
    elif pad.get("size") is not None:
        size = (int(pad["size"][1]), int(pad["size"][0]))
    padded = tuple(math.ceil(side / divisor) * divisor for side in size)
    return InputRule((padded[0], padded[1]), limit, keep_ratio, value)


def _pad_value(preprocessor: Mapping, pad: Mapping | None) -> tuple[float, ...]:
    """Of each channel, BGR."""
    mean = tuple(float(value) for value in preprocessor.get("mean") or (0.0, 0.0, 0.0))
    if pad is not None:
        given = pad.get("pad_val", 0)
        given = given.get("img", 0) if isinstance(given, Mapping) else given
        return tuple(float(v) for v in given) if isinstance(given, Iterable) else (float(given),) * len(mean)
    # What the preprocessor pads with comes after the normalisation, where 0 is the mean.
    return mean[::-1] if preprocessor.get("bgr_to_rgb") or preprocessor.get("rgb_to_bgr") else mean
