"""What a data set is like, as far as a config follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lad.datasets.coco_file import AnnotationTable, read_coco
from lad.datasets.layouts import Layout
from lad.datasets.tail import by_frequency, class_counts, describe_tail
from lad.errors import ConfigError, DataError, listed

import numpy as np


@dataclass(frozen=True)
class DataSummary:
    """A data set.

    Attributes:
        classes: Names, in the order of the config.
        images, objects: Of the training data; crowds are not counted.
        empty: Training images without objects.
        val_images: Of the validation data.
        rare: Names of classes in few training images.
        tail: One line about them.
        has_masks: Whether every training object has a segmentation.
        in_order: Whether the categories of both files are in the order of the classes.
    """

    classes: tuple[str, ...]
    images: int
    objects: int
    empty: int
    val_images: int
    rare: tuple[str, ...]
    tail: str
    has_masks: bool
    in_order: bool = True


def summarise_data(layout: Layout, order: Sequence[str] | None = None) -> DataSummary:
    """Read the annotations of a data set.

    Args:
        layout: Its files.
        order: Class names in the order that they are to have, a teacher's; by default that of the categories.

    Raises:
        DataError: annotations cannot be read.
        ConfigError: the classes are others than those of ``order``, or than those of the validation data.
    """
    content, table = _read(layout.train.annotations)
    val, _ = _read(layout.val.annotations)
    names = [str(category.get("name")) for category in content["categories"]]
    other = [str(category.get("name")) for category in val["categories"]]
    if set(names) != set(other):
        raise ConfigError(
            f"{layout.train.annotations} has the classes {listed(names)} and {layout.val.annotations} {listed(other)}: "
            "both must have the same."
        )
    if order is not None and set(order) != set(names):
        raise ConfigError(
            f"the teacher knows {len(order)} classes ({listed(order, 3)}) and the data have {len(names)} "
            f"({listed(names, 3)}): leave --checkpoint out, and the teacher is trained on the data first."
        )
    classes = tuple(order or names)
    counts = class_counts(table, classes)
    with_objects = np.unique(table.image[(table.image >= 0) & (table.category >= 0) & ~table.crowd])
    return DataSummary(
        classes=classes,
        images=len(content["images"]),
        objects=sum(count.objects for count in counts),
        empty=len(content["images"]) - len(with_objects),
        val_images=len(val["images"]),
        rare=tuple(by_frequency(counts)["rare"]),
        tail=describe_tail(counts),
        has_masks=bool(content["annotations"])
        and all(annotation.get("segmentation") for annotation in content["annotations"]),
        in_order=list(classes) == names == other,
    )


def _read(file: Path) -> tuple[dict, AnnotationTable]:
    content, problems = read_coco(file)
    if content is None:
        raise DataError(f"{problems[0]}")
    table = AnnotationTable.of(content)
    if table is None:
        raise DataError(f"{file} has annotations without numbers: `lad check --json {file}` lists them.")
    return content, table
