"""Objects cut out of the images of a COCO file, as images of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lad.errors import ConfigError, DataError

import mmcv
import numpy as np


def cut_objects(
    content: Mapping[str, Any],
    images: str | Path,
    out: str | Path,
    context: float = 0.0,
    min_side: int = 8,
    min_score: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write each box of a COCO file as an image of its own, ``OUT/IMAGE_ID/ANNOTATION_ID.png``.

    Classes are not read, and boxes may be of another source than labels, such as the detections of a detector. Crowds
    are left out. An image whose crops are all there is passed over, so that an interrupted call goes on.

    Args:
        content: Of the file.
        images: Folder of its images.
        out: Folder to write.
        context: What is added to a box on each side, as a part of its side; cut off at the image's border.
        min_side: Smaller boxes, in pixels, are left out.
        min_score: Boxes with a lower ``score`` are left out; those without one are kept.
        progress: Called with (images done, images in all) after every image.

    Returns:
        The number of crops that the folder holds of the file.

    Raises:
        ConfigError: a setting is out of range.
        DataError: an image cannot be read, or no box is left.
    """
    if not context >= 0 or not math.isfinite(context):
        raise ConfigError(f"context must be at least 0, got {context!r}.")
    if min_side < 1:
        raise ConfigError(f"min_side must be at least 1 pixel, got {min_side!r}.")
    boxes: dict[Any, dict[Any, list[float]]] = {image["id"]: {} for image in content["images"]}
    for one in content.get("annotations", ()):
        x, y, width, height = one["bbox"]
        if min(width, height) < min_side or one.get("iscrowd") or one.get("score", 1.0) < min_score:
            continue
        if one["image_id"] in boxes:
            boxes[one["image_id"]][one["id"]] = [x, y, width, height]
    count = sum(map(len, boxes.values()))
    if not count:
        raise DataError(f"no box is left to cut out (at least {min_side} pixels, a score of {min_score:g}).")
    for number, image in enumerate(content["images"], 1):
        wanted = {Path(out, str(image["id"]), f"{own}.png"): box for own, box in boxes[image["id"]].items()}
        if not all(path.is_file() for path in wanted):
            pixels = _read(Path(images, image["file_name"]))
            for path, box in wanted.items():
                _write(_cut(pixels, box, context), path)
        if progress is not None:
            progress(number, len(content["images"]))
    return count


def _read(path: Path) -> np.ndarray:
    pixels = mmcv.imread(str(path)) if path.is_file() else None
    if pixels is None:
        raise DataError(f"image {path} cannot be read.")
    return pixels


def _cut(pixels: np.ndarray, box: list[float], context: float) -> np.ndarray:
    """The pixels of a box (x, y, width, height) with its context; whole pixels that it touches, at least one."""
    x, y, width, height = box
    rows, columns = pixels.shape[:2]
    top, left = max(0, math.floor(y - context * height)), max(0, math.floor(x - context * width))
    top, left = min(top, rows - 1), min(left, columns - 1)
    bottom = max(top + 1, math.ceil(y + (1 + context) * height))
    right = max(left + 1, math.ceil(x + (1 + context) * width))
    return pixels[top:bottom, left:right]


def _write(pixels: np.ndarray, path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")  # the ending decides the format
    mmcv.imwrite(pixels, str(part))
    part.replace(path)
