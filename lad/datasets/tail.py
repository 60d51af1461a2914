"""How often each class occurs: images and objects of each, and its rare, common and frequent classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lad.datasets.coco_file import AnnotationTable
from lad.errors import ConfigError, listed

import numpy as np

Frequency = Literal["rare", "common", "frequent"]
FREQUENCIES: tuple[Frequency, ...] = get_args(Frequency)


@dataclass(frozen=True)
class FrequencyBounds:
    """Largest numbers of training images of rare and of common classes.

    The defaults are LVIS's (Gupta et al., CVPR 2019, arXiv 1908.03195): rare classes are in 1 to 10 images, common ones
    in 11 to 100, frequent ones in more.

    Attributes:
        rare: Of rare classes.
        common: Of common classes.

    Raises:
        ConfigError: they are not 0 <= rare <= common.
    """

    rare: int = 10
    common: int = 100

    def __post_init__(self) -> None:
        if not (
            isinstance(self.rare, int) and isinstance(self.common, int) and 0 <= self.rare <= self.common
        ):
            raise ConfigError(
                "bounds of class frequencies must be numbers of images with 0 <= rare <= common, got "
                f"rare={self.rare!r} and common={self.common!r}."
            )

    def frequency(self, images: int) -> Frequency:
        """Whether a class in this number of images is rare, common or frequent."""
        return "rare" if images <= self.rare else "common" if images <= self.common else "frequent"


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs in an annotation file.

    Attributes:
        name: Its name.
        images: Number of images with an object of it.
        objects: Number of its objects; crowds are not counted.
    """

    name: str
    images: int
    objects: int


def class_counts(
    table: AnnotationTable, classes: Sequence[str] | None = None, kept: np.ndarray | None = None
) -> list[ClassCount]:
    """Count the images and objects of each class of an annotation file.

    Args:
        table: The file's annotations.
        classes: The classes to count, in the order of the result; by default the categories.
        kept: (n,) bool, the annotations to count; by default all.
    """
    category, image = _counted(table, kept)
    objects = np.bincount(category, minlength=len(table.names))
    pairs = np.unique(np.stack([category, image]), axis=1)
    images = np.bincount(pairs[0], minlength=len(table.names))
    found = {
        name: ClassCount(name, int(images[index]), int(objects[index]))
        for index, name in enumerate(table.names)
    }
    return [found.get(name, ClassCount(name, 0, 0)) for name in (table.names if classes is None else classes)]


def balanced_objects(
    table: AnnotationTable, images: int, classes: Sequence[str] | None = None, kept: np.ndarray | None = None
) -> list[float]:
    """Expected objects of each class in an epoch of class-balanced sampling (``ClassAwareSampler``).

    Every class that there is gets the same number of images, each with an object of it. What else is on them comes
    along: the objects are less balanced than the draws.

    Args:
        table: The file's annotations.
        images: Number of images of an epoch.
        classes, kept: As for :func:`class_counts`.

    Returns:
        A number for each class; 0 for one without objects.
    """
    category, image = _counted(table, kept)
    names = {name: index for index, name in enumerate(table.names)}
    wanted = np.array(
        [names.get(name, -1) for name in (table.names if classes is None else classes)], dtype=int
    )
    chosen = np.isin(category, wanted)
    category, image = category[chosen], image[chosen]
    if not len(category):
        return [0.0] * len(wanted)
    pairs = np.unique(np.stack([category, image]), axis=1)
    of_class = np.bincount(pairs[0], minlength=len(table.names))
    # How often an image is drawn: for each of its classes as often as any other image of that class.
    share = 1 / of_class[pairs[0]] / np.count_nonzero(of_class)
    draws = images * np.bincount(pairs[1], share, minlength=int(image.max()) + 1)
    objects = np.bincount(category, draws[image], minlength=len(table.names) + 1)
    return [float(objects[index]) if index >= 0 else 0.0 for index in wanted]


def _counted(table: AnnotationTable, kept: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Class and image of each object; crowds and what belongs to none are left out."""
    counted = (table.category >= 0) & (table.image >= 0) & ~table.crowd
    if kept is not None:
        counted &= kept
    return table.category[counted], table.image[counted]


def describe_tail(counts: Sequence[ClassCount], bounds: FrequencyBounds | None = None) -> str:
    """One line that names the rare classes: ``3 of 10 classes are rare (in at most 10 images): 7, 8, 9``."""
    bounds = bounds or FrequencyBounds()
    rare = by_frequency(counts, bounds)["rare"]
    if not rare:
        return f"none of {len(counts)} classes is rare (in at most {bounds.rare} images)"
    return (
        f"{len(rare)} of {len(counts)} classes are rare (in at most {bounds.rare} images): {listed(rare, 20)}"
    )


def by_frequency(
    counts: Sequence[ClassCount], bounds: FrequencyBounds | None = None
) -> dict[Frequency, list[str]]:
    """Names of the rare, common and frequent classes, in this order; each in the order of ``counts``."""
    bounds = bounds or FrequencyBounds()
    groups: dict[Frequency, list[str]] = {frequency: [] for frequency in FREQUENCIES}
    for count in counts:
        groups[bounds.frequency(count.images)].append(count.name)
    return groups
