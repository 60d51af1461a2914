"""Objects cut out of the images of a COCO file, as images of their own."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lad.errors import ConfigError, DataError, listed

import mmcv
import numpy as np

#: The file in a folder of crops that says what they were cut out of.
MANIFEST = "crops.json"
#: What of a manifest is another thing, in words.
TOLD = dict(
    boxes="other boxes or images of the file", images="another image folder", context="another context"
)


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
    are left out. An image whose crops are all there is passed over, so that an interrupted call goes on; the folder's
    ``crops.json`` says what they are cut out of, and crops of anything else are not added to.

    Args:
        content: Of the file; annotations may be absent, and ``iscrowd`` and ``score`` of them.
        images: Folder of its images.
        out: Folder to write.
        context: What is added to a box on each side, as a part of its side; cut off at the image's border.
        min_side: Smaller boxes, in pixels, are left out.
        min_score: Boxes with a lower ``score`` are left out; those without one are kept.
        progress: Called with (images done, images in all) after every image.

    Returns:
        The number of crops that the folder holds of the file.

    Raises:
        ConfigError: a setting is out of range, or the folder holds something else.
        DataError: an image cannot be read, no box is left, or an id names no file or that of another box.
    """
    if not context >= 0 or not math.isfinite(context):
        raise ConfigError(f"context must be at least 0, got {context!r}.")
    if min_side < 1:
        raise ConfigError(f"min_side must be at least 1 pixel, got {min_side!r}.")
    wanted = _wanted(content, min_side, min_score)
    count = sum(map(len, wanted))
    if not count:
        raise DataError(f"no box is left to cut out (at least {min_side} pixels, a score of {min_score:g}).")
    names = [str(image["file_name"]) for image in content["images"]]
    manifest = _manifest(names, wanted, Path(images), context)
    _check_folder(Path(out), manifest)
    for number, (name, boxes) in enumerate(zip(names, wanted, strict=True), 1):
        if not all(Path(out, crop).is_file() for crop in boxes):
            pixels = _read(Path(images, name))
            _claim(Path(out), manifest)
            for crop, box in boxes.items():
                _write(_cut(pixels, box, context), Path(out, crop))
        if progress is not None:
            progress(number, len(names))
    return count


def _wanted(content: Mapping[str, Any], min_side: int, min_score: float) -> list[dict[str, list[float]]]:
    """The boxes of each image, (x, y, width, height) in pixels, by the path of their crop in the folder."""
    boxes: dict[Any, dict[str, list[float]]] = {}
    for image in content["images"]:
        boxes[image["id"]] = {}
    folders = {number: _part(number, "image") for number in boxes}
    if len(set(folders.values())) < len(content["images"]):
        raise DataError("two images have the same id, and would have one folder of crops: number them anew.")
    for one in content.get("annotations", ()):
        x, y, width, height = one["bbox"]
        if min(width, height) < min_side or one.get("iscrowd") or one.get("score", 1.0) < min_score:
            continue
        own = boxes.get(one["image_id"])
        if own is None:
            continue
        crop = f"{folders[one['image_id']]}/{_part(one['id'], 'annotation')}.png"
        if crop in own:
            raise DataError(
                f"two annotations of image {one['image_id']} have the id {one['id']}, and would be one crop: number "
                "them anew."
            )
        own[crop] = [x, y, width, height]
    return list(boxes.values())


def _part(number: Any, kind: str) -> str:
    """An id as the name of a file or folder, in one folder on any operating system."""
    name = str(number)
    if not name.strip(". ") or any(letter in name for letter in "/\\:\0"):
        raise DataError(f"{kind} id {name!r} can be no name of a file: give it a number.")
    return name


def _manifest(
    names: list[str], wanted: list[dict[str, list[float]]], images: Path, context: float
) -> dict[str, Any]:
    cut = json.dumps([names, wanted], sort_keys=True).encode()
    return dict(boxes=hashlib.sha256(cut).hexdigest(), images=str(images.resolve()), context=float(context))


def _claim(out: Path, manifest: dict[str, Any]) -> None:
    """Say in a folder what it will hold, before the first crop is in it."""
    file = out / MANIFEST
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        part = out / f".{MANIFEST}"
        part.write_text(json.dumps(manifest))
        part.replace(file)


def _check_folder(out: Path, manifest: dict[str, Any]) -> None:
    """Refuse a folder that holds anything else than crops of this call."""
    file = out / MANIFEST
    other = f"give another folder, or remove {out}"
    if not file.exists():
        if out.is_dir() and any(path.name != f".{MANIFEST}" for path in out.iterdir()):
            raise ConfigError(f"{out} holds something already, and no {MANIFEST} that says of what: {other}.")
        return
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{file} is damaged: {other}.")
    differing = [told for key, told in TOLD.items() if found.get(key) != manifest[key]]
    if differing:
        raise ConfigError(f"{out} holds crops of {listed(differing)}: {other}.")


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
