"""Images as a config's own test pipeline prepares them, to check an exported file's preparation against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lad.errors import UnsupportedError
from lad.export.rule import InputRule
from lad.export.steps import pixel_steps

import numpy as np
from mmdet.datasets.transforms import LoadImageFromNDArray
from mmdet.registry import TRANSFORMS
from mmengine.config import Config

#: An image's width and height are multiplied by them.
Factors = tuple[float, float]


def own_steps(cfg: Config, shape: tuple[int, int] | None = None) -> tuple[dict, ...]:
    """Configs of the transforms by which a config's test pipeline resizes and pads.

    Args:
        cfg: A plain detector's.
        shape: (height, width) in pixels that takes the place of the pipeline's sizes.

    Raises:
        UnsupportedError: see :func:`lad.export.steps.pixel_steps`.
    """
    steps = pixel_steps(cfg)
    resize, pad = steps.resize, steps.pad
    if shape is not None:
        size = (shape[1], shape[0])
        resize = _sized(resize or dict(type="Resize", keep_ratio=True), size)
        if pad is not None:
            pad = {key: value for key, value in pad.items() if key not in ("size_divisor", "pad_to_square")}
            pad["size"] = size
    return tuple(step for step in (resize, pad) if step is not None)


def _sized(resize: Mapping, size: tuple[int, int]) -> dict:
    """A ``Resize`` to another (width, height)."""
    return {**{key: value for key, value in resize.items() if key != "scale_factor"}, "scale": size}


def own_inputs(
    steps: Sequence[Mapping], rule: InputRule, images: Sequence[np.ndarray]
) -> tuple[np.ndarray, list[Factors]]:
    """What a config's own transforms make of images, after a check that a file's rule makes the same of them.

    What is left of the input is filled as the rule fills it. An image that lies across the input is resized to what
    the input has for it.

    Args:
        steps: Of :func:`own_steps`; none where an image is prepared by the rule alone.
        rule: Of the exported file.
        images: (h, w, 3) uint8 BGR of any size.

    Returns:
        (B, 3, height, width) uint8, and the factors of each image's width and height.

    Raises:
        DataError: an image is too thin; see :meth:`lad.export.rule.InputRule.prepare`.
        UnsupportedError: a pixel is another one by the rule.
    """
    inputs, factors = [], []
    for number, image in enumerate(images, 1):
        expected, factor = rule.prepare(image)
        if steps:
            which = f"image {number} of {len(images)} ({image.shape[1]} x {image.shape[0]})"
            own, factor = _prepared(steps, rule, image)
            if any(side > most for side, most in zip(own.shape[:2], rule.shape, strict=True)):
                raise UnsupportedError(
                    f"the test pipeline makes {own.shape[1]} x {own.shape[0]} pixels of {which}, more than the input's "
                    f"{rule.shape[1]} x {rule.shape[0]}: give another --shape."
                )
            canvas = rule.canvas(image.shape[2])
            canvas[: own.shape[0], : own.shape[1]] = own
            own = canvas.transpose(2, 0, 1)
            apart = np.abs(own.astype(int) - expected)
            if apart.any():
                raise UnsupportedError(
                    f"the file does not prepare images as the test pipeline does: {(apart > 0).mean():.1%} of the "
                    f"values of {which} differ, by up to {apart.max()} of 255; nothing is kept."
                )
            expected = own
        inputs.append(expected)
        factors.append(factor)
    return np.stack(inputs), factors


def _prepared(steps: Sequence[Mapping], rule: InputRule, image: np.ndarray) -> tuple[np.ndarray, Factors]:
    """(h, w, 3) that the transforms make of an image, and the factors by which they resize it."""
    if rule.lies_across(image):
        # Transforms that keep proportions turn their size with the image.
        side = min(rule.limit)
        steps = [_sized(step, (side, side)) if "keep_ratio" in step else step for step in steps]
    results: Any = LoadImageFromNDArray().transform(dict(img=image))
    for step in steps:
        results = TRANSFORMS.build(dict(step)).transform(results)
    return results["img"], results.get("scale_factor", (1.0, 1.0))
