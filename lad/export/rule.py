"""How an image becomes an input of an exported detector: resized, padded, not normalised."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from lad.errors import ConfigError

import cv2
import numpy as np
from mmengine.config import Config

#: Steps of a test pipeline that change an image's size, by the names that :func:`input_rule` follows.
_RESIZE, _PAD = ("Resize", "FixScaleResize"), "Pad"


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
        """
        height, width = image.shape[:2]
        most_height, most_width = self.limit
        if self.keep_ratio:
            # As mmcv rounds.
            factor = min(most_width / width, most_height / height)
            size = (int(width * factor + 0.5), int(height * factor + 0.5))
        else:
            size = (most_width, most_height)
        resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        padded = np.empty((*self.shape, image.shape[2]), np.uint8)
        padded[:] = np.rint(self.pad_value)
        padded[: size[1], : size[0]] = resized
        return padded.transpose(2, 0, 1), (size[0] / width, size[1] / height)

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
        ConfigError: the config has no test pipeline, or it sets no size and none is given.
    """
    steps = list(_steps(((cfg.get("test_dataloader") or {}).get("dataset")) or {}))
    preprocessor = cfg.model.get("data_preprocessor") or {}
    divisor = int(preprocessor.get("pad_size_divisor", 1))
    resize = next((step for step in steps if _name(step) in _RESIZE), None)
    pads = next((step for step in steps if _name(step) == _PAD), None)
    mean = tuple(float(value) for value in preprocessor.get("mean") or (0.0, 0.0, 0.0))
    if preprocessor.get("bgr_to_rgb") or preprocessor.get("rgb_to_bgr"):
        mean = mean[::-1]
    # What the preprocessor pads with comes after the normalisation, where 0 is the mean.
    value = mean
    if pads is not None:
        given = pads.get("pad_val", 0)
        given = given.get("img", 0) if isinstance(given, dict) else given
        value = tuple(float(v) for v in given) if isinstance(given, Iterable) else (float(given),) * len(mean)
    keep_ratio = bool(resize.get("keep_ratio", False)) if resize is not None else True
    if shape is not None:
        if any(size < 1 or size % divisor for size in shape):
            raise ConfigError(f"the input's height and width must be multiples of {divisor}, got {shape}.")
        return InputRule(shape, shape, keep_ratio, value)
    if resize is None or not isinstance(resize.get("scale"), (tuple, list)):
        raise ConfigError("the test pipeline has no Resize with a scale: give the input's size with --shape.")
    width, height = (int(size) for size in resize["scale"])
    limit = (height, width)
    size = limit
    if pads is not None and pads.get("size") is not None:
        size = (int(pads["size"][1]), int(pads["size"][0]))
    divisor = math.lcm(divisor, int((pads or {}).get("size_divisor") or 1))
    padded = tuple(math.ceil(side / divisor) * divisor for side in size)
    return InputRule((padded[0], padded[1]), limit, keep_ratio, value)


def _steps(dataset: dict) -> Iterator[dict]:
    while "dataset" in dataset:
        yield from dataset.get("pipeline") or ()
        dataset = dataset["dataset"]
    yield from dataset.get("pipeline") or ()


def _name(step: dict) -> str:
    return str(step.get("type")).rpartition(".")[2]
