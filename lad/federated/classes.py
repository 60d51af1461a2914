"""A client's classes in the federation's order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lad.datasets.coco_file import hashable, read_coco
from lad.datasets.configured import annotation_file, classes_of, datasets_of, is_labelled, is_plain_coco
from lad.engine.checkpoints import write_whole
from lad.errors import ConfigError, DataError, listed, nearest

from mmengine.config import Config

#: The setting that holds a client's training data.
_WHERE = "train_dataloader"


@dataclass(frozen=True)
class MappedFile:
    """The content of a COCO file in the classes of a federation.

    Attributes:
        content: With the federation's classes for its categories, and their annotations alone.
        absent: The federation's classes that the file had no category of.
        left_out: Number of annotations of each category that the federation does not have, by its name; categories
            without annotations are not named.
    """

    content: dict[str, Any]
    absent: tuple[str, ...]
    left_out: Mapping[str, int]


def federation_classes(cfg: Config) -> tuple[str, ...] | None:
    """The class names that a config trains on; None where its data have none.

    Raises:
        ConfigError: its training data sets do not agree.
    """
    found = [classes_of(dataset, _WHERE) for dataset in datasets_of(cfg.train_dataloader.dataset)]
    named = {classes for classes in found if classes is not None}
    if len(named) > 1:
        raise ConfigError(
            f"{_WHERE}: its data sets have different classes; a federation has one list of them."
        )
    return next(iter(named), None)


def align_classes(cfg: Config, classes: Sequence[str], client: str, folder: Path) -> list[str]:
    """Bring a client's training data into the federation's classes, by name; in place.

    Where the categories of an annotation file have another order, other ids or other classes, a copy of it with the
    federation's is written and read instead; objects of other classes are not in it.

    Args:
        cfg: The client's training config.
        classes: The federation's class names in the order of the detector's outputs.
        client: Its name, for messages.
        folder: Where copies of annotation files go.

    Returns:
        What was changed, a line each.

    Raises:
        ConfigError: the config names a class that the federation does not have.
        DataError: an annotation file cannot be read, or has none of the classes.
    """
    told = []
    for number, dataset in enumerate(datasets_of(cfg.train_dataloader.dataset)):
        if not is_labelled(dataset):
            continue
        own = classes_of(dataset, _WHERE)
        for name in own or ():
            if name not in classes:
                raise ConfigError(
                    f"client {client}: its config names a class {name!r}, which the federation does not have"
                    f"{nearest(name, classes)}; it has {listed(classes, 10)}: name it as there, or take it out."
                )
        if own is not None:
            dataset["metainfo"] = dict(dataset.get("metainfo") or {}, classes=tuple(classes))
        path = annotation_file(dataset, _WHERE)
        if path is None or not is_plain_coco(dataset):
            continue
        mapped = with_categories(path, classes, client)
        if mapped is not None:
            out = folder.resolve() / f"annotations_{number}.json"
            write_whole(out, json.dumps(mapped.content).encode())
            dataset["ann_file"] = str(out)
            told.append(
                f"client {client}: the categories of {path} are mapped by name to {listed(classes, 10)}"
                f"{_left_out(mapped)}"
            )
    return told


def _left_out(mapped: MappedFile) -> str:
    """What is lost of a client's file, as the end of a line; empty if nothing is."""
    if not mapped.left_out:
        return ""
    counts = listed((f"{count} of {name!r}" for name, count in mapped.left_out.items()), 10)
    # What has another name there is most often one of these.
    absent = f"; the file has no {listed(map(repr, mapped.absent), 10)}" if mapped.absent else ""
    return f"; left out are the objects of classes that the federation does not have: {counts}{absent}"


def with_categories(path: Path, classes: Sequence[str], client: str) -> MappedFile | None:
    """A client's COCO file with the given classes for its categories; None if it has them already.

    Raises:
        DataError: it cannot be read, names a category twice, or has none of the classes.
    """
    return mapped_file(path, classes, f"client {client}")


def mapped_file(path: Path, classes: Sequence[str], owner: str) -> MappedFile | None:
    """A COCO file with the given classes for its categories; None if it has them already.

    Args:
        path: The file.
        classes: The federation's class names in the order of the detector's outputs.
        owner: Whose file it is, for errors.

    Raises:
        DataError: it cannot be read, names a category twice, or has none of the classes.
    """
    content, problems = read_coco(path)
    if content is None:
        raise DataError(f"{owner}: {path}: {problems[0].message}.")
    names = [hashable(category.get("name")) for category in content["categories"]]
    if names == list(classes):
        return None
    if len(set(names)) < len(names):
        raise DataError(f"{owner}: {path} names a category twice: {listed(map(str, names), 10)}.")
    if not set(names) & set(classes):
        raise DataError(
            f"{owner}: {path} has none of the federation's classes {listed(classes, 10)}, but "
            f"{listed(map(str, names), 10)}."
        )
    numbers, others = {}, {}
    for category, name in zip(content["categories"], names, strict=True):
        if name in classes:
            numbers[hashable(category.get("id"))] = 1 + classes.index(name)
        else:
            others[hashable(category.get("id"))] = str(name)
    annotations, left_out = [], Counter[str]()
    for one in content["annotations"]:
        number = hashable(one.get("category_id"))
        if number in numbers:
            annotations.append(dict(one, category_id=numbers[number]))
        elif number in others:
            left_out[others[number]] += 1
    categories = [dict(id=number, name=name) for number, name in enumerate(classes, start=1)]
    return MappedFile(
        content=dict(content, annotations=annotations, categories=categories),
        absent=tuple(name for name in classes if name not in names),
        left_out=dict(left_out),
    )
