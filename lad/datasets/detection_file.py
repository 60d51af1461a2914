"""Detections of a detector of any package, from a COCO result file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lad.base.settings import is_number
from lad.datasets.coco_file import read_coco
from lad.errors import ConfigError, DataError, listed, nearest

import numpy as np

#: Keys of an entry of a result file.
KEYS = ("image_id", "category_id", "bbox", "score")


@dataclass(frozen=True)
class Detections:
    """Boxes with classes and scores of n detections, those of an image together, best first.

    Attributes:
        path: The file.
        boxes: (n, 4) float32: x1, y1, x2, y2 in pixels of the image as it is stored.
        classes: (n,) int64, index of the class in :attr:`names`.
        scores: (n,) float32, from 0 to 1.
        rows: First and last (exclusive) number of the detections of each image that the file names, by the text of its
            id. An image whose detections were all left out has as many as none.
        names: Names of the classes.
    """

    path: str
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    rows: Mapping[str, tuple[int, int]]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)


def read_detections(
    path: str,
    names: Mapping[Any, str],
    min_score: float = 0.05,
    max_per_image: int = 100,
) -> Detections:
    """Read a COCO result file.

    It is a list of ``dict(image_id=..., category_id=..., bbox=[left, top, width, height], score=...)``. A COCO
    annotation file whose annotations have scores, as ``lad label`` writes it, is read too.

    Args:
        path: The file.
        names: Class names by category id.
        min_score: Detections below are left out.
        max_per_image: The best so many of an image are kept.

    Raises:
        DataError: it is no such file; names the first entry that is wrong.
    """
    images, entries = _read(path)
    rows = list(_rows(path, entries, names))
    index = {name: number for number, name in enumerate(dict.fromkeys(names.values()))}
    kept = [row for row in rows if row[3] >= min_score and row[2][2] > 0 and row[2][3] > 0]
    # Of equal scores the first in the file is the better one, whatever the machine.
    kept.sort(key=lambda row: (row[0], -row[3]))
    named = dict.fromkeys([*images, *(row[0] for row in rows)])
    places: dict[str, tuple[int, int]] = {}
    chosen: list[tuple[str, Any, list[float], float]] = []
    start = 0
    while start < len(kept):
        stop = start
        while stop < len(kept) and kept[stop][0] == kept[start][0]:
            stop += 1
        best = kept[start : min(stop, start + max_per_image)]
        places[best[0][0]] = (len(chosen), len(chosen) + len(best))
        chosen += best
        start = stop
    boxes = np.array([row[2] for row in chosen], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Detections(
        path,
        boxes,
        np.array([index[names[row[1]]] for row in chosen], dtype=np.int64),
        np.array([row[3] for row in chosen], dtype=np.float32),
        {image: places.get(image, (0, 0)) for image in named},
        tuple(index),
    )


def _read(path: str) -> tuple[list[str], list[Any]]:
    """The ids of the images that a file lists, and its entries."""
    try:
        content = json.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"there is no result file {path!r}; give its path.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON file ({' '.join(str(error).split())[:100]}).") from error
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        images = content.get("images")
        images = images if isinstance(images, list) else []
        return [str(one["id"]) for one in images if isinstance(one, dict) and "id" in one], content[
            "annotations"
        ]
    if not isinstance(content, list):
        raise DataError(
            f"{path} is no COCO result file: it holds a {type(content).__name__}, not a list of dicts with "
            f"{', '.join(KEYS)}."
        )
    return [], content


def _rows(
    path: str, entries: Sequence[Any], names: Mapping[Any, str]
) -> Iterator[tuple[str, Any, list[float], float]]:
    """Image id as text, category id, box and score of each entry."""
    for number, entry in enumerate(entries):
        where = f"{path}: entry {number}"
        missing = [key for key in KEYS if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise DataError(
                f"{where} has no {missing[0]!r}: it is no detection; a result file is a list of dicts with "
                f"{', '.join(KEYS)}."
            )
        box, score, category = entry["bbox"], entry["score"], entry["category_id"]
        is_box = isinstance(box, list) and len(box) == 4 and all(map(_is_coordinate, box))
        if not is_box:
            raise DataError(f"{where}: bbox must be [left, top, width, height], got {box!r:.60}.")
        if not is_number(score) or not 0 <= score <= 1:
            raise DataError(f"{where}: score must be from 0 to 1, got {score!r:.60}.")
        if not isinstance(category, (int, str)) or category not in names:
            raise DataError(
                f"{where}: there is no name for category_id {category!r:.60}; names are known for "
                f"{listed(map(str, names), 5)}: give the ann_file that the detector was evaluated on, or "
                "classes={ID: NAME}."
            )
        yield str(entry["image_id"]), category, box, score


def _is_coordinate(value: Any) -> bool:
    """A number of pixels that has a place in float32."""
    return is_number(value) and abs(value) < 1e9


def category_names(ann_file: str | None, classes: Any, owner: str) -> dict[Any, str]:
    """Class names by category id.

    Args:
        ann_file: A COCO file whose ``categories`` name them, or
        classes: names of the ids 1, 2, ... in their order, or by id; exactly one of both.
        owner: For messages.

    Raises:
        ConfigError: neither or both are given, or the names are none.
        DataError: the file is no COCO file.
    """
    if (ann_file is None) == (classes is None):
        raise ConfigError(
            f"{owner} needs the names of its category ids: ann_file=PATH of a COCO file with them, or "
            f"classes=['cat', ...] for the ids 1, 2, ..., or classes={{ID: NAME}}; got "
            f"{'neither' if classes is None else 'both'}."
        )
    if ann_file is not None:
        content, problems = read_coco(ann_file, annotated=False)
        if content is None:
            raise DataError(f"{ann_file}: {problems[0].message}.")
        return {one["id"]: str(one.get("name")) for one in content["categories"] if "id" in one}
    names = dict(classes) if isinstance(classes, Mapping) else None
    if names is None and isinstance(classes, (list, tuple)):
        names = dict(enumerate(classes, 1))
    if not names or not all(isinstance(name, str) for name in names.values()):
        raise ConfigError(
            f"{owner}: classes must be a list of names or a dict of them by id, got {classes!r:.80}."
        )
    return names


def labels_of(
    detections: Detections, classes: Sequence[str] | None, drop_others: bool, owner: str
) -> np.ndarray:
    """The label of each detection in a data set, (n,) int64; -1 for one of another class.

    Args:
        detections: The detections.
        classes: The data set's class names.
        drop_others: Whether detections of other classes are left out.
        owner: For messages.

    Raises:
        ConfigError: the data set has no class names, or a class is unknown there, or all are.
    """
    if not classes:
        raise ConfigError(
            f"{owner}: the training data has no class names to map {detections.path} to: set "
            "metainfo=dict(classes=...) of the data set."
        )
    known = {name: label for label, name in enumerate(classes)}
    by_class = np.array([known.get(name, -1) for name in detections.names], dtype=np.int64)
    found = sorted({detections.names[number] for number in set(detections.classes.tolist())})
    unknown = [name for name in found if name not in known]
    if unknown and (not drop_others or len(unknown) == len(found)):
        advice = "" if len(unknown) == len(found) else "; other_classes='drop' leaves them out"
        raise ConfigError(
            f"{owner}: {detections.path} has detections of {listed(map(repr, unknown))}, and the training data has no "
            f"such class{nearest(unknown[0], classes)}; it has {listed(classes, 5)}{advice}."
        )
    return by_class[detections.classes] if len(detections) else np.zeros(0, dtype=np.int64)


def check_images(detections: Detections, images: Sequence[Any], allow_missing: bool, owner: str) -> None:
    """Refuse a file that does not name the images of a training.

    Args:
        detections: The file's.
        images: Ids of the training images.
        allow_missing: Whether an image that the file does not name is one without detections.
        owner: For messages.

    Raises:
        DataError: ids repeat, none or not all of them are in the file.
    """
    ids = list(map(str, images))
    if len(set(ids)) < len(ids):
        raise DataError(
            f"{owner}: {len(ids) - len(set(ids))} training images have the id of another one, so a result file cannot "
            "tell them apart: give the images of concatenated data sets ids of their own."
        )
    if ids and not detections.rows:
        raise DataError(
            f"{owner}: {detections.path} has no detections: run the detector on the training images, with a lower "
            "score threshold where it finds nothing."
        )
    missing = [image for image in ids if image not in detections.rows]
    if len(missing) == len(ids):
        raise DataError(
            f"{owner}: {detections.path} names none of the {len(ids)} training images (their ids are "
            f"{listed(ids)}; the file's {listed(detections.rows)}): run the detector on the training images."
        )
    if missing and not allow_missing:
        raise DataError(
            f"{owner}: {detections.path} names {len(missing)} of the {len(ids)} training images nowhere (ids "
            f"{listed(missing)}): run the detector on them too, or, if it found nothing there, set missing='empty'."
        )
