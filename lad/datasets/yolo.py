"""Annotations in YOLO's format as COCO's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lad.datasets.coco_file import box_annotation
from lad.datasets.image_folder import image_files, unlabelled_coco
from lad.errors import ConfigError

import yaml  # type: ignore[import-untyped]


def read_yolo(file: Path) -> tuple[list[str], dict[str, Path]]:
    """Class names, and the folder of images of each split, of a ``data.yaml``.

    Paths are relative to ``path`` in it, which is relative to the file; Roboflow writes ``../train/images`` where the
    folder lies beside the file, which is understood too.

    Raises:
        ConfigError: it is no such file.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {' '.join(str(error).split())}.") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and all(isinstance(key, int) for key in names):
        if sorted(names) != list(range(len(names))):
            raise ConfigError(f"{file}: names must be numbered from 0 on, got {sorted(names)}.")
        names = [names[key] for key in sorted(names)]
    if not isinstance(names, list) or not names:
        raise ConfigError(f"{file} has no list of `names`.")
    root = file.parent / str(content.get("path") or "")
    splits = {}
    for split, keys in dict(train=("train",), val=("val", "valid")).items():
        value = next((content[key] for key in keys if content.get(key)), None)
        if value is None:
            continue
        if not isinstance(value, str):
            raise ConfigError(f"{file}: {split} must be one folder of images, got {value!r}.")
        candidates = [root / value, file.parent / value.removeprefix("../")]
        splits[split] = next((folder for folder in candidates if folder.is_dir()), candidates[0])
    return [str(name) for name in names], splits


def convert_yolo(folder: Path, classes: Sequence[str]) -> dict[str, Any]:
    """The COCO content of a folder of images, with a text file of labels for each.

    The labels of ``images/train/a.jpg`` are in ``labels/train/a.txt``, or beside the image: lines of class, centre and
    size of a box, or the corners of a polygon, whose box is taken, in parts of the image's width and height. An image
    without a file has no objects.

    Args:
        folder: The images, in subfolders too.
        classes: Class names in the order of their numbers.

    Raises:
        DataError: there is no such folder, no image in it, or one that cannot be opened.
        ConfigError: a line of a label file cannot be read.
    """
    content = unlabelled_coco(folder, image_files(folder), classes)
    for image in content["images"]:
        width, height = image["width"], image["height"]
        for label, (x, y, w, h) in _objects(_label_file(folder / image["file_name"]), len(classes)):
            box = [x * width, y * height, w * width, h * height]
            content["annotations"].append(
                box_annotation(len(content["annotations"]) + 1, image["id"], label + 1, box)
            )
    return content


def _label_file(image: Path) -> Path:
    """The last folder ``images`` of an image's path is ``labels`` for its labels, as in YOLO's own loader."""
    parts = list(image.parts)
    places = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _objects(file: Path, num_classes: int) -> list[tuple[int, tuple[float, float, float, float]]]:
    """Class and box, left, top, width and height, of each line of a label file."""
    found = []
    for number, line in enumerate(file.read_text().splitlines() if file.is_file() else [], 1):
        if not line.strip():
            continue
        try:
            label, *values = map(float, line.split())
        except ValueError:
            raise ConfigError(
                f"{file}: line {number} has something that is no number: {line!r:.80}."
            ) from None
        if label != int(label) or not 0 <= label < num_classes:
            raise ConfigError(
                f"{file}: line {number} has class {label:g}; there are {num_classes}, from 0 on."
            )
        polygon = len(values) >= 6 and len(values) % 2 == 0
        if not (len(values) == 4 or polygon) or not all(map(math.isfinite, values)):
            raise ConfigError(
                f"{file}: line {number} must be class, x, y, width and height, or class and a polygon: {line!r:.80}."
            )
        if polygon:
            xs, ys = values[::2], values[1::2]
            box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        else:
            x, y, w, h = values
            box = (x - w / 2, y - h / 2, w, h)
        found.append((int(label), box))
    return found
