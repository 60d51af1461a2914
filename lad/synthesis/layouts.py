"""Boxes and classes of the objects that images are synthesised with: drawn at random, or those of a COCO file."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lad.datasets.coco_file import AnnotationTable, read_coco
from lad.errors import ConfigError, DataError, listed

import numpy as np
import torch
from torch import Tensor

#: How often a place is drawn for a box before it is left out.
TRIES = 50
#: Sides of boxes from a file that are shorter after scaling are left out: in pixels.
SHORTEST = 4.0


@dataclass(frozen=True, eq=False)
class Layout:
    """The objects of one image.

    Attributes:
        bboxes: (n, 4) float32: left, top, right, bottom in pixels.
        labels: (n,) int64.
    """

    bboxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class RandomLayouts:
    """Layouts with boxes of random sizes and places, whose classes occur equally often in all that is drawn at once.

    Attributes:
        size: (height, width) of the images, in pixels.
        num_classes: Number of classes.
        objects: Least and greatest number of objects of an image.
        sides: Least and greatest square root of a box's area, as parts of the shorter side of the image; drawn evenly
            on a logarithmic scale.
        aspect: Greatest ratio of the sides of a box.
        overlap: The greatest part of a box that may lie in another.
    """

    size: tuple[int, int]
    num_classes: int
    objects: tuple[int, int] = (1, 6)
    sides: tuple[float, float] = (0.1, 0.5)
    aspect: float = 2.0
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ConfigError(f"there must be at least one class, got {self.num_classes}.")
        if not 1 <= self.objects[0] <= self.objects[1]:
            raise ConfigError(f"the numbers of objects must be 1 <= MIN <= MAX, got {self.objects}.")
        if not 0 < self.sides[0] <= self.sides[1] <= 1:
            raise ConfigError(f"the sizes of objects must be 0 < MIN <= MAX <= 1, got {self.sides}.")
        if not 1 <= self.aspect < math.inf:
            raise ConfigError(f"the aspect ratio must be at least 1, got {self.aspect}.")
        if not 0 <= self.overlap <= 1:
            raise ConfigError(f"the overlap must be from 0 to 1, got {self.overlap}.")

    def draw(self, count: int, generator: np.random.Generator) -> list[Layout]:
        """Layouts of images; no class occurs more than once more often than another.

        Boxes for which no free place is found are left out before the classes are dealt, but the first of an image.
        """
        boxes = [self._boxes(generator) for _ in range(count)]
        total = sum(map(len, boxes))
        rounds = [generator.permutation(self.num_classes) for _ in range(-(-total // self.num_classes))]
        labels = generator.permutation(np.concatenate(rounds)[:total])
        ends = np.cumsum([len(own) for own in boxes])
        return [
            Layout(torch.from_numpy(own).float(), torch.from_numpy(labels[end - len(own) : end]).long())
            for own, end in zip(boxes, ends, strict=True)
        ]

    def _boxes(self, generator: np.random.Generator) -> np.ndarray:
        placed = np.empty((0, 4))
        for _ in range(generator.integers(self.objects[0], self.objects[1] + 1)):
            for _ in range(TRIES):
                box = self._box(generator)
                if not len(placed) or overlap_of(box, placed) <= self.overlap:
                    placed = np.concatenate([placed, box[None]])
                    break
        return placed

    def _box(self, generator: np.random.Generator) -> np.ndarray:
        height, width = self.size
        least, greatest = np.log(self.sides)
        side = min(height, width) * np.exp(generator.uniform(least, greatest))
        stretch = np.exp(generator.uniform(-1, 1) * np.log(self.aspect) / 2)
        extent = np.minimum([side * stretch, side / stretch], [width, height])
        corner = generator.uniform(0, 1, 2) * ([width, height] - extent)
        return np.concatenate([corner, corner + extent])


def overlap_of(box: np.ndarray, others: np.ndarray) -> float:
    """The greatest part of a box that lies in another, or of another that lies in it.

    Args:
        box: (4,) left, top, right, bottom.
        others: (n, 4), n at least 1.
    """
    shared = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    smaller = np.minimum(np.prod(box[2:] - box[:2]), np.prod(others[:, 2:] - others[:, :2], axis=1))
    return float(np.max(np.prod(shared.clip(0), axis=1) / smaller))


@dataclass(frozen=True, eq=False)
class RecordedLayouts:
    """Layouts of the images of a COCO file, of which nothing else is used.

    Attributes:
        layouts: At least one.
    """

    layouts: Sequence[Layout]

    def draw(self, count: int, generator: np.random.Generator) -> list[Layout]:
        """Layouts in random order, each at most once more often than another."""
        rounds = [generator.permutation(len(self.layouts)) for _ in range(-(-count // len(self.layouts)))]
        return [self.layouts[number] for number in np.concatenate(rounds)[:count]]

    @classmethod
    def read(cls, path: str | Path, classes: Sequence[str], size: tuple[int, int]) -> RecordedLayouts:
        """The layouts of a file, each image stretched to the size of the images that are synthesised.

        Crowds, objects of other classes, and boxes that are shorter than :data:`SHORTEST` pixels afterwards are left
        out, and images that have no others.

        Args:
            path: A COCO file; its images need not exist.
            classes: The teacher's class names, by label; categories are found by their names.
            size: (height, width) in pixels.

        Raises:
            DataError: the file is not readable, or lacks sizes of images or boxes.
            ConfigError: no object of it is left.
        """
        content, problems = read_coco(path)
        if content is None:
            raise DataError(f"{path}: {problems[0].message}.")
        table = AnnotationTable.of(content)
        if table is None or not np.isfinite(table.boxes).all() or not (table.sizes > 0).all():
            raise DataError(
                f"{path}: an image has no width and height, or an annotation no bbox, area or category_id that is a "
                "number: `tools/check_dataset.py` lists what is wrong."
            )
        label_of = {name: label for label, name in enumerate(classes)}
        labels = np.array([label_of.get(name, -1) for name in table.names] + [-1])[table.category]
        corners = np.concatenate([table.boxes[:, :2], table.boxes[:, :2] + table.boxes[:, 2:]], axis=1)
        extent = np.array([size[1], size[0]] * 2, dtype=np.float64)
        scaled = (corners / np.tile(table.image_sizes(), 2) * extent).clip(0, extent)
        sides = scaled[:, 2:] - scaled[:, :2]
        kept = (
            (labels >= 0)
            & (table.image >= 0)
            & ~table.crowd
            & ~table.ignored
            & (sides >= SHORTEST).all(axis=1)
        )
        if not kept.any():
            raise ConfigError(
                f"{path} has no box of at least {SHORTEST:g} pixels of the teacher's classes "
                f"({listed(classes)}): give a file whose categories have these names."
            )
        members = defaultdict(list)
        for number in np.flatnonzero(kept):
            members[table.image[number]].append(number)
        return cls(
            [
                Layout(torch.from_numpy(scaled[own]).float(), torch.from_numpy(labels[own]).long())
                for _, own in sorted(members.items())
            ]
        )
