"""COCO annotation files: reading, and their annotations as columns."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from lad.datasets.problems import Problem
from lad.errors import listed

import numpy as np


def read_coco(
    path: str | Path, annotated: bool = True, labelled: bool = True
) -> tuple[dict | None, list[Problem]]:
    """Read an annotation file and check that it has COCO's structure.

    Args:
        path: The file.
        annotated: Whether it must have ``annotations``. Files of test images, whose detections are only written, have
            none.
        labelled: Whether it must have ``categories``; a list of images without labels needs ``images`` alone.

    Returns:
        The content, None if it is unusable; the problems.
    """

    def unusable(kind: str, message: str) -> tuple[None, list[Problem]]:
        return None, [Problem(kind, str(path), "", message, fatal=True)]

    try:
        # As text: pycocotools reads no byte order mark and no UTF-16, which json detects in bytes.
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        return unusable("missing_file", "there is no such annotation file")
    except RecursionError:
        return unusable("not_json", "not a JSON file: its lists are nested too deep")
    except ValueError as error:
        return unusable("not_json", f"not a JSON file: {error}")
    except OSError as error:
        return unusable("unreadable_file", f"cannot be read: {error.strerror or error}")
    if not isinstance(content, dict):
        return unusable(
            "not_coco", f"not a COCO annotation file: it holds a {type(content).__name__}, not a dict"
        )
    found = listed(sorted(map(str, content))) or "none"
    if not annotated:
        content.setdefault("annotations", [])
    if not labelled:
        content.setdefault("categories", [])
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            return unusable(
                "not_coco", f"not a COCO annotation file: it has no list of {key} (keys: {found})"
            )
    return content, []


def box_annotation(number: int, image: int, category: int, box: Sequence[float]) -> dict[str, Any]:
    """An entry of ``annotations``: an object with a box and no mask.

    Args:
        number: Its id.
        image, category: Ids.
        box: Left, top, width and height, in pixels.
    """
    return dict(
        id=number,
        image_id=image,
        category_id=category,
        bbox=list(box),
        area=box[2] * box[3],
        iscrowd=0,
        segmentation=[],
    )


def labelled_names(categories: Sequence[dict], classes: Sequence[str] | None) -> list[str]:
    """Names of the labels 0, 1, ... as ``CocoDataset`` and ``CocoMetric`` number them.

    Both number the categories whose names are among ``classes`` in the *file's* order, whatever the order of
    ``classes``. This is the only place that says so.

    Args:
        categories: ``categories`` of an annotation file.
        classes: The class names of the data set (``metainfo``); None for all categories.
    """
    names = [category.get("name") for category in categories]
    return [str(name) for name in names if classes is None or name in classes]


@dataclass(frozen=True)
class AnnotationTable:
    """Columns of the n annotations of a file, in its order, and of its m images.

    Attributes:
        boxes: (n, 4) float64: left, top, width and height in pixels.
        area: (n,) float64.
        image: (n,) int64, index of the image; -1 if the file has no such image.
        category: (n,) int64, index of the category; -1 if the file has no such category.
        crowd: (n,) bool, ``iscrowd``.
        ignored: (n,) bool, ``ignore``, which ``CocoDataset`` leaves out.
        sizes: (m, 2) float64, width and height of the images in pixels.
        names: Names of the categories.
    """

    boxes: np.ndarray
    area: np.ndarray
    image: np.ndarray
    category: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    sizes: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def of(cls, content: dict) -> AnnotationTable | None:
        """The table of a file's content; None if an annotation or image lacks a value or has one of a wrong type."""
        images, annotations = content["images"], content["annotations"]
        boxes = [annotation.get("bbox") for annotation in annotations]
        areas = [annotation.get("area") for annotation in annotations]
        sizes = [size for image in images for size in (image.get("width"), image.get("height"))]
        if not all(isinstance(box, list) and len(box) == 4 for box in boxes):
            return None
        numbers = set(map(type, chain(chain.from_iterable(boxes), areas, sizes)))
        if not numbers <= {int, float}:
            return None
        try:
            image_index = {image["id"]: index for index, image in enumerate(images)}
            category_index = {category["id"]: index for index, category in enumerate(content["categories"])}
            return cls(
                boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
                area=np.array(areas, dtype=np.float64),
                image=np.array([image_index.get(one["image_id"], -1) for one in annotations], dtype=np.int64),
                category=np.array(
                    [category_index.get(one["category_id"], -1) for one in annotations], dtype=np.int64
                ),
                crowd=np.array([bool(one.get("iscrowd")) for one in annotations], dtype=bool),
                ignored=np.array([bool(one.get("ignore")) for one in annotations], dtype=bool),
                sizes=np.array(sizes, dtype=np.float64).reshape(-1, 2),
                names=tuple(str(category.get("name")) for category in content["categories"]),
            )
        except (KeyError, TypeError, OverflowError):  # absent, not hashable, an int above every float
            return None

    def image_sizes(self) -> np.ndarray:
        """(n, 2) width and height of each annotation's image; NaN where it is unknown."""
        padded = np.concatenate([self.sizes, np.full((1, 2), np.nan)])
        return padded[self.image]


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float; booleans are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_positive(value: Any) -> bool:
    """Whether a value is a finite number above 0."""
    return is_number(value) and is_finite(value) and value > 0


def is_finite(value: float) -> bool:
    """Whether a number is finite as a float; an int above every float is not."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def hashable(value: Any) -> Any:
    """A value by which ids are compared; its ``repr`` if it is a list or a dict."""
    return value if isinstance(value, (int, str, float)) or value is None else repr(value)
