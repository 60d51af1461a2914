"""What a detector's config tells about the images that it was trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from lad.datasets.configured import transforms_of
from lad.errors import ConfigError

from mmengine.config import Config

#: Sides of synthesised images are multiples of it: the coarsest stride of most backbones.
DIVISOR = 32


def image_size(cfg: Config) -> tuple[int, int]:
    """(height, width) of the images that the test pipeline of a config resizes to, each rounded up to a multiple of 32.

    Raises:
        ConfigError: the pipeline sets no size.
    """
    for step in _steps(cfg, "test_dataloader"):
        scale = step.get("scale")
        if (
            str(step.get("type")).endswith("Resize")
            and isinstance(scale, (tuple, list))
            and all(isinstance(side, int) for side in scale)
        ):
            width, height = (math.ceil(side / DIVISOR) * DIVISOR for side in scale)
            return height, width
    raise ConfigError(
        "the config's test pipeline has no Resize with a scale: give the images' size with --size."
    )


def flip_prob(cfg: Config) -> float:
    """Probability with which the training pipeline of a config mirrors images left to right; 0 if it does not.

    The first mirroring counts, in the pipeline of a data set or of a wrapper, as YOLOX's ``MultiImageMixDataset`` has
    one, or inside of another transform.
    """
    for step in _steps(cfg, "train_dataloader"):
        if str(step.get("type")).endswith("RandomFlip"):
            direction, prob = step.get("direction", "horizontal"), step.get("prob")
            if direction == "horizontal" and isinstance(prob, (int, float)):
                return float(prob)
    return 0.0


def _steps(cfg: Config, loader: str) -> Iterator[dict[str, Any]]:
    """The transforms of a loader's data sets and of their wrappers."""
    return transforms_of((cfg.get(loader) or {}).get("dataset"))
