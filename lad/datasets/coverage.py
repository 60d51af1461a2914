"""What of an annotation file is trained on, and what MMDetection leaves out without a word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lad.datasets.coco_file import AnnotationTable
from lad.datasets.tail import ClassCount, balanced_objects, class_counts
from lad.errors import listed

import numpy as np
from mmengine.dataset import BaseDataset


@dataclass(frozen=True)
class Coverage:
    """Images and objects of an annotation file that a data set holds.

    Attributes:
        images, objects: Their numbers in the data set.
        all_images, all_objects: Their numbers in the file.
        images_left_out, objects_left_out: Numbers by reason.
        classes: How often each class occurs in the data set.
        balanced: Objects of each class in an epoch of class-balanced sampling.
    """

    images: int
    objects: int
    all_images: int
    all_objects: int
    images_left_out: dict[str, int]
    objects_left_out: dict[str, int]
    classes: list[ClassCount]
    balanced: list[float]

    @property
    def complete(self) -> bool:
        """Whether everything in the file is in the data set."""
        return (self.images, self.objects) == (self.all_images, self.all_objects)

    def __str__(self) -> str:
        held = f"{_of(self.images, self.all_images)} images and {_of(self.objects, self.all_objects)} objects"
        left_out = [_reasons("images", self.images_left_out), _reasons("objects", self.objects_left_out)]
        told = "; ".join(filter(None, left_out))
        return f"{held}; left out by MMDetection: {told}" if told else held


def expected_coverage(
    table: AnnotationTable,
    classes: Sequence[str] | None,
    filter_cfg: dict | None = None,
    test_mode: bool = False,
) -> Coverage:
    """What ``CocoDataset`` keeps of an annotation file, by its rules.

    Args:
        table: The file's annotations.
        classes: The class names of the data set; None for all categories.
        filter_cfg: Of the data set: ``filter_empty_gt`` and ``min_size``.
        test_mode: Of the data set: images are not filtered.
    """
    known = np.array([classes is None or name in classes for name in table.names] + [False], dtype=bool)
    x, y, width, height = table.boxes.T
    right, bottom = table.image_sizes().T
    inside = (np.minimum(x + width, right) > np.maximum(x, 0)) & (
        np.minimum(y + height, bottom) > np.maximum(y, 0)
    )
    others = [name for name, is_known in zip(table.names, known[:-1], strict=True) if not is_known]
    # CocoDataset's rules, each counted where no earlier one applies.
    rules = {
        "of no image of the file": table.image < 0,
        "with 'ignore'": table.ignored,
        "outside their image": ~inside & (width >= 1) & (height >= 1),
        "without area": ~(table.area > 0) | ~(width > 0) | ~(height > 0),
        "below one pixel": ~((width >= 1) & (height >= 1)),
        f"of other categories ({listed(others)})": ~known[table.category],
    }
    objects, kept = _count(rules)
    image_rules = {} if test_mode else _image_rules(table, known, filter_cfg or {})
    images, held = _count(image_rules) if image_rules else ({}, np.ones(len(table.sizes), dtype=bool))
    of_images = kept & ~np.append(held, False)[table.image]
    if of_images.any():
        objects["in images left out"] = int(of_images.sum())
    return Coverage(
        images=int(held.sum()),
        objects=int((kept & ~of_images).sum()),
        all_images=len(table.sizes),
        all_objects=len(table.boxes),
        images_left_out=images,
        objects_left_out=objects,
        classes=class_counts(table, classes, kept & ~of_images),
        balanced=balanced_objects(table, int(held.sum()), classes, kept & ~of_images),
    )


def _image_rules(table: AnnotationTable, known: np.ndarray, filter_cfg: dict) -> dict[str, np.ndarray]:
    rules = {}
    if filter_cfg.get("filter_empty_gt", False):
        # Boxes that are left out count as objects here, as for CocoDataset.
        of_classes = table.image[known[table.category] & (table.image >= 0)]
        filled = np.bincount(of_classes, minlength=len(table.sizes)) > 0
        rules["without objects (filter_empty_gt)"] = ~filled
    if min_size := filter_cfg.get("min_size", 0):
        rules[f"below {min_size} pixels (min_size)"] = ~(table.sizes.min(axis=1) >= min_size)
    return rules


def _count(rules: dict[str, np.ndarray]) -> tuple[dict[str, int], np.ndarray]:
    """Number of entries to which each rule is the first to apply, and which entries none applies to."""
    kept = ~np.zeros_like(next(iter(rules.values())), dtype=bool)
    counts = {}
    for reason, applies in rules.items():
        if number := int((kept & applies).sum()):
            counts[reason] = number
        kept = kept & ~applies
    return counts, kept


def _of(number: int, total: int) -> str:
    return f"{number}" if number == total else f"{number} of {total}"


def _reasons(what: str, counts: dict[str, int]) -> str:
    return (
        f"{what}: " + ", ".join(f"{number} {reason}" for reason, number in counts.items()) if counts else ""
    )


@dataclass(frozen=True)
class Content:
    """What a built data set holds.

    Attributes:
        images, objects: Numbers.
        highest_label: The highest class index; -1 without objects.
    """

    images: int
    objects: int
    highest_label: int


def content_of(dataset: BaseDataset) -> Content | None:
    """Count the images and objects of an innermost built data set; None if it does not list its objects."""
    objects, highest, lists_objects = 0, -1, False
    for index in range(len(dataset)):
        instances = dataset.get_data_info(index).get("instances")
        if instances is None:
            continue
        lists_objects = True
        objects += len(instances)
        highest = max([highest, *(instance.get("bbox_label", -1) for instance in instances)])
    return Content(len(dataset), objects, highest) if lists_objects else None


def innermost(dataset: Any) -> Iterator[BaseDataset]:
    """The innermost data sets of built wrappers (``dataset``) and concatenations (``datasets``)."""
    inner = getattr(dataset, "datasets", None) or [
        one for one in [getattr(dataset, "dataset", None)] if one is not None
    ]
    if not inner and isinstance(dataset, BaseDataset):
        yield dataset
    for one in inner:
        yield from innermost(one)
