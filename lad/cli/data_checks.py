"""Checks that the data sets and evaluators of a config are sound and belong together.

One source of truth decides what label k means: the class names of the training data. Every data set of the config must
have these names, and every annotation file must list the categories in this order, since ``CocoDataset`` and
``CocoMetric`` number labels in their file's order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from lad.datasets.coco_checks import FileUse, check_coco
from lad.datasets.coco_file import AnnotationTable, hashable, read_coco
from lad.datasets.configured import (
    CocoData,
    classes_of,
    coco_data,
    datasets_of,
    has_own_classes,
)
from lad.datasets.coverage import Coverage, expected_coverage
from lad.datasets.problems import Problem
from lad.errors import listed
from lad.evaluation.configured import EvaluatedFile, evaluated_files, formats_only

from mmengine.config import Config

#: Data loaders and the evaluators of their detections.
LOADERS = {
    "train_dataloader": None,
    "val_dataloader": "val_evaluator",
    "test_dataloader": "test_evaluator",
}


@dataclass(frozen=True)
class Loader:
    """Data loader of a config with its evaluator.

    Attributes:
        name: ``'train_dataloader'``, ...
        evaluator: The setting that holds its evaluator; None for training.
        datasets: The innermost data set configs.
        classes: Their class names; None where a data set has none.
        data: Their files; None where they are not local or not COCO's.
        evaluated: The files of its evaluator.
        format_only: Whether its evaluator only writes detections.
    """

    name: str
    evaluator: str | None
    datasets: list[dict]
    classes: list[tuple[str, ...] | None]
    data: list[CocoData | None]
    evaluated: list[EvaluatedFile]
    format_only: bool


@dataclass(frozen=True)
class DataReport:
    """Result of :func:`inspect_data`.

    Attributes:
        problems: What is wrong.
        coverage: What the training files' data sets hold, by file.
        data: The COCO data that was checked, each file and image folder once.
        unchecked: Data sets that are no local COCO data, a description each.
    """

    problems: list[Problem]
    coverage: dict[Path, Coverage]
    data: list[CocoData]
    unchecked: list[str]


@dataclass(frozen=True)
class _File:
    """An annotation file and all that a config uses it for."""

    path: Path
    uses: list[FileUse]
    classes: list[tuple[str, ...] | None]
    trained_by: list[dict]

    def read(self) -> _Inspected:
        """Read the file and check it for all its uses; what is kept of its content is small."""
        use = reduce(or_, self.uses)
        content, problems = read_coco(self.path, annotated=use.annotated or use.evaluated)
        if content is None:
            return _Inspected(problems, None, None)
        table = AnnotationTable.of(content)
        for classes in dict.fromkeys(self.classes):
            found = check_coco(content, str(self.path), classes, use, table)
            problems += [problem for problem in found if problem not in problems]
        coverage = None
        if table is not None and self.trained_by:
            dataset, names = self.trained_by[0], [category.get("name") for category in content["categories"]]
            rules = dataset.get("filter_cfg"), dataset.get("test_mode", False)
            coverage = expected_coverage(table, names, self.classes[0], *rules)
        images = {hashable(image.get("id")): str(image.get("file_name")) for image in content["images"]}
        return _Inspected(problems, coverage, images)


@dataclass(frozen=True)
class _Inspected:
    """An annotation file that was read.

    Attributes:
        problems: What is wrong with it.
        coverage: What a data set trains on of it; None if none does, or if its entries are malformed.
        images: File names by image id; None if it cannot be read.
    """

    problems: list[Problem]
    coverage: Coverage | None
    images: dict[Any, str] | None


def loaders_of(cfg: Config, names: Collection[str] = tuple(LOADERS)) -> list[Loader]:
    """The data loaders of a config.

    Args:
        cfg: The config.
        names: Those that are wanted.

    Raises:
        ConfigError: class names that are no class names.
    """
    found = []
    for name, evaluator in LOADERS.items():
        config = cfg.get(name)
        datasets = list(datasets_of(config.get("dataset"))) if isinstance(config, dict) else []
        if name not in names or not datasets:
            continue
        metrics = None if evaluator is None else cfg.get(evaluator)
        found.append(
            Loader(
                name=name,
                evaluator=evaluator,
                datasets=datasets,
                classes=[classes_of(dataset, name) for dataset in datasets],
                data=[coco_data(dataset, name) for dataset in datasets],
                evaluated=list(evaluated_files(metrics)),
                format_only=formats_only(metrics),
            )
        )
    return found


def inspect_data(loaders: list[Loader], present_only: Collection[str] = ()) -> DataReport:
    """Check the data of :func:`loaders_of`; each annotation file is read once.

    Args:
        loaders: The loaders.
        present_only: Names of loaders whose files may be missing: training needs no test data.
    """
    problems = list(_class_problems(loaders))
    loaders = [loader for loader in loaders if loader.name not in present_only or _is_present(loader)]
    files = _files_of(loaders)
    read = {place: file.read() for place, file in files.items()}
    problems += [problem for inspected in read.values() for problem in inspected.problems]
    images = {place: inspected.images for place, inspected in read.items()}
    problems += [problem for loader in loaders for problem in _evaluator_problems(loader, images)]
    data = [one for loader in loaders for one in loader.data if one is not None]
    return DataReport(
        problems=problems,
        coverage={
            files[place].path: inspected.coverage
            for place, inspected in read.items()
            if inspected.coverage is not None
        },
        data=list({(one.annotations, one.images): one for one in data}.values()),
        unchecked=[
            f"{loader.name}: {dataset.get('type')} is no local COCO data set"
            for loader in loaders
            for dataset, one in zip(loader.datasets, loader.data, strict=True)
            if one is None
        ],
    )


def _is_present(loader: Loader) -> bool:
    files = [one.annotations for one in loader.data if one is not None]
    return all(path.is_file() for path in [*files, *(file.path for file in loader.evaluated)])


def _files_of(loaders: list[Loader]) -> dict[Path, _File]:
    """The annotation files of loaders and their evaluators by their places, each with all its uses."""
    files: dict[Path, _File] = {}

    def add(path: Path, use: FileUse, classes: tuple[str, ...] | None) -> _File:
        file = files.setdefault(path.resolve(), _File(path, [], [], []))
        file.uses.append(use)
        file.classes.append(classes)
        return file

    for loader in loaders:
        for dataset, data in zip(loader.datasets, loader.data, strict=True):
            if data is None:
                continue
            # An evaluator without a file compares with what the data set holds.
            annotated = loader.evaluator is None or not (loader.format_only or loader.evaluated)
            file = add(data.annotations, FileUse(annotated, masks=data.masks), data.classes)
            if loader.evaluator is None:
                file.trained_by.append(dataset)
        classes = next((one for one in loader.classes if one is not None), None)
        for evaluated in loader.evaluated:
            compared = not evaluated.format_only
            use = FileUse(annotated=False, evaluated=compared, masks=compared and evaluated.masks)
            add(evaluated.path, use, classes)
    return files


def _class_problems(loaders: list[Loader]) -> Iterator[Problem]:
    """Data sets that have other class names than the first, which is the training data."""
    known = [
        (loader, dataset, classes)
        for loader in loaders
        for dataset, classes in zip(loader.datasets, loader.classes, strict=True)
        if classes is not None
    ]
    for loader, dataset, classes in known[1:]:
        first, first_dataset, truth = known[0]
        if classes != truth:
            yield Problem(
                "other_classes",
                loader.name,
                "",
                f"the classes of {_name(dataset)} are {_described(dataset, classes)} and those of "
                f"{_name(first_dataset)} in {first.name} are {_described(first_dataset, truth)}: give all data "
                "sets the same metainfo=dict(classes=(...))",
                fatal=True,
            )


def _name(dataset: dict) -> str:
    return str(dataset.get("ann_file") or dataset.get("type"))


def _described(dataset: dict, classes: tuple[str, ...]) -> str:
    own = (
        ""
        if has_own_classes(dataset)
        else f", the {len(classes)} of {dataset.get('type')} (no metainfo is given)"
    )
    return listed(classes, 5) + own


def _evaluator_problems(loader: Loader, images: dict[Path, dict[Any, str] | None]) -> Iterator[Problem]:
    """Evaluators that compare detections with the annotations of other images than their loader reads.

    Args:
        loader: The loader.
        images: File names by image id of each annotation file.
    """
    data = [one for one in loader.data if one is not None]
    if loader.evaluator is None or loader.format_only or not data or len(data) < len(loader.data):
        return
    if len(loader.evaluated) > 1 < len(data):
        return  # a metric for each of several data sets
    loaded: dict[Any, str] = {}
    for one in data:
        read = images[one.annotations.resolve()]
        if read is None:
            return
        repeated = [str(number) for number in read if number in loaded]
        if repeated:
            yield Problem(
                "repeated_image_id",
                str(one.annotations),
                "",
                f"image ids ({listed(repeated)}) occur in another file of {loader.name} too: number them anew",
                fatal=True,
            )
        loaded |= read
    names = " and ".join(str(one.annotations) for one in data)
    for evaluated in loader.evaluated:
        known = images[evaluated.path.resolve()]
        if evaluated.format_only or known is None:
            continue
        message = _other_images(loaded, known)
        if message:
            yield Problem(
                "other_file",
                f"{loader.evaluator}.ann_file",
                "",
                f"it is {evaluated.path} and {loader.name} reads {names}: {message}; name the file that the loader "
                "reads",
                fatal=True,
            )


def _other_images(loaded: dict[Any, str], evaluated: dict[Any, str]) -> str:
    """How the images of a loader (id: file name) differ from those of an evaluator; empty if they do not."""
    unknown = [number for number in loaded if number not in evaluated]
    if unknown:
        return f"{len(unknown)} of {len(loaded)} images (id {listed(map(str, unknown))}) are not in it"
    unread = len(evaluated) - len(loaded)
    if unread:
        return f"{unread} of its {len(evaluated)} images are not loaded and would count as images without detections"
    renamed = [number for number, name in loaded.items() if Path(name).name != Path(evaluated[number]).name]
    if renamed:
        number = renamed[0]
        return f"image {number} is {evaluated[number]} in it and {loaded[number]} in the loader's file"
    return ""
