"""Checks that the data sets and evaluators of a config are sound and belong together.

One source of truth decides what label k means: the class names of the training data. Every data set of the config must
have these names, and every annotation file must list the categories in this order, since ``CocoDataset`` and
``CocoMetric`` number labels in their file's order. What only the built data sets tell is in
:mod:`lad.cli.built_checks`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from lad.cli.loaders import Loader
from lad.datasets.coco_checks import FileUse, check_coco
from lad.datasets.coco_file import AnnotationTable, hashable, read_coco
from lad.datasets.configured import (
    CocoData,
    filter_rules,
    has_own_classes,
    is_labelled,
    transforms_of,
)
from lad.datasets.coverage import Coverage, expected_coverage
from lad.datasets.problems import Problem
from lad.errors import listed


@dataclass(frozen=True)
class AnnotationFile:
    """What is kept of an annotation file that was read.

    Attributes:
        categories: Names of the categories by id, in the file's order.
        images: File names of the images by id; None where the file names none.
        filled: Ids of the images that have objects.
    """

    categories: dict[Any, str]
    images: dict[Any, str | None]
    filled: frozenset

    @classmethod
    def of(cls, content: dict) -> AnnotationFile:
        """Keep what comparisons need of a file's content."""
        return cls(
            categories={hashable(one.get("id")): str(one.get("name")) for one in content["categories"]},
            images={hashable(one.get("id")): one.get("file_name") for one in content["images"]},
            filled=frozenset(
                hashable(one.get("image_id")) for one in content["annotations"] if not one.get("iscrowd")
            ),
        )


@dataclass(frozen=True)
class DataReport:
    """Result of :func:`inspect_data`.

    Attributes:
        problems: What is wrong.
        coverage: What the training data sets hold of each file, a data set each.
        data: The COCO data that was checked, each file and image folder once.
        files: What was read, by resolved path.
        unchecked: Data sets that are no local COCO data or not there, a description each.
    """

    problems: list[Problem]
    coverage: list[tuple[Path, Coverage]]
    data: list[CocoData]
    files: dict[Path, AnnotationFile]
    unchecked: list[str]

    @property
    def fatal(self) -> list[Problem]:
        """The problems that make a run meaningless."""
        return [problem for problem in self.problems if problem.fatal]


def inspect_data(loaders: list[Loader], present_only: Collection[str] = ("test_dataloader",)) -> DataReport:
    """Check the files of :func:`lad.cli.loaders.loaders_of`; each annotation file is read once.

    Args:
        loaders: The loaders.
        present_only: Names of loaders whose files may be missing: training needs no test data.
    """
    absent = [loader for loader in loaders if loader.name in present_only and not loader.is_present]
    loaders = [loader for loader in loaders if loader not in absent]
    problems = list(_class_problems(loaders))
    files = _files_of(loaders)
    inspected = {place: file.read() for place, file in files.items()}
    found = [problem for one in inspected.values() for problem in one.problems]
    problems += _objects_somewhere(found, [one.coverage for one in inspected.values() if one.coverage])
    kept = {place: one.kept for place, one in inspected.items() if one.kept is not None}
    data = {
        (one.annotations, one.images): one for loader in loaders for one in loader.data if one is not None
    }
    problems += [
        problem for loader in loaders for one in loader.data for problem in _folder_problem(loader, one, kept)
    ]
    problems += [problem for loader in loaders for problem in _instances_problem(loader)]
    problems += [problem for loader in loaders for problem in _unlabelled_problem(loader)]
    return DataReport(
        problems=list(dict.fromkeys(problems)),
        coverage=[
            (files[place].path, coverage) for place, one in inspected.items() for coverage in one.coverage
        ],
        data=list(data.values()),
        files=kept,
        unchecked=[
            f"{loader.name}: {dataset.get('type')} is no local COCO data set"
            for loader in loaders
            for dataset, one in zip(loader.datasets, loader.data, strict=True)
            if one is None
        ]
        + [f"{loader.name}: its files are not there" for loader in absent],
    )


@dataclass(frozen=True)
class _File:
    """An annotation file and all that a config uses it for."""

    path: Path
    uses: list[FileUse]
    classes: list[tuple[tuple[str, ...] | None, bool]]  # and whether the categories are sorted
    trained_by: list[tuple[dict, str, tuple[str, ...] | None]]

    def read(self) -> _Inspected:
        """Read the file and check it for all its uses; what is kept of its content is small."""
        use = reduce(or_, self.uses)
        content, problems = read_coco(self.path, annotated=use.needs_annotations, labelled=use.labelled)
        if content is None:
            return _Inspected(problems, [], None)
        columns = AnnotationTable.of(content)
        for classes, in_order_of_ids in dict.fromkeys(self.classes):
            seen, table = content, columns
            if in_order_of_ids:
                # The columns hold indices of categories.
                seen, table = dict(content, categories=_by_id(content["categories"])), None
            found = check_coco(seen, str(self.path), classes, use, table)
            problems += [problem for problem in found if problem not in problems]
        coverage = []
        for dataset, loader, classes in self.trained_by:
            rules = filter_rules(dataset, loader), dataset.get("test_mode", False)
            if columns is not None:
                coverage.append(expected_coverage(columns, classes, *rules))
        return _Inspected(problems, coverage, AnnotationFile.of(content))


def _by_id(categories: list[dict]) -> list[dict]:
    """Categories in the order of their ids, as ``CocoMetric(sort_categories=True)`` has them."""
    numbers = [category.get("id") for category in categories]
    # Anything else is reported as no id.
    return sorted(categories, key=lambda one: one["id"]) if set(map(type, numbers)) <= {int} else categories


@dataclass(frozen=True)
class _Inspected:
    """An annotation file that was read.

    Attributes:
        problems: What is wrong with it.
        coverage: What each data set trains on of it; empty if its entries are malformed.
        kept: What is kept of it; None if it cannot be read.
    """

    problems: list[Problem]
    coverage: list[Coverage]
    kept: AnnotationFile | None


def _files_of(loaders: list[Loader]) -> dict[Path, _File]:
    """The annotation files of loaders and their evaluators by their places, each with all its uses."""
    files: dict[Path, _File] = {}

    def add(path: Path, use: FileUse, classes: tuple[str, ...] | None, by_id: bool = False) -> _File:
        file = files.setdefault(path.resolve(), _File(path, [], [], []))
        file.uses.append(use)
        file.classes.append((classes, by_id))
        return file

    for loader in loaders:
        for dataset, data in zip(loader.datasets, loader.data, strict=True):
            if data is None:
                continue
            # An evaluator without a file compares with what the data set holds.
            annotated = loader.is_trained or (loader.compares and not loader.evaluated)
            optional = loader.is_trained and len(loader.datasets) > 1
            if not data.labelled:
                add(data.annotations, FileUse(annotated=False, labelled=False), None)
                continue
            use = FileUse(annotated=annotated, masks=data.masks, optional=optional)
            file = add(data.annotations, use, data.classes)
            if loader.is_trained:
                file.trained_by.append((dataset, loader.name, data.classes))
        for evaluated in loader.evaluated:
            compared = not evaluated.format_only
            use = FileUse(
                loaded=False,
                annotated=False,
                evaluated=compared,
                evaluated_masks=compared and evaluated.masks,
            )
            parts = loader.classes if evaluated.part is None else loader.classes[evaluated.part :]
            classes = next((one for one in parts if one is not None), None)
            add(evaluated.path, use, None if evaluated.class_agnostic else classes, evaluated.sort_categories)
    return files


def _objects_somewhere(problems: list[Problem], coverage: list[list[Coverage]]) -> list[Problem]:
    """The problems, where missing objects are fatal if no training file has any."""
    trained = [one for of_file in coverage for one in of_file]
    if not trained or any(one.objects for one in trained):
        return problems
    return [replace(one, fatal=True) if one.kind == "no_objects" else one for one in problems]


def _folder_problem(
    loader: Loader, data: CocoData | None, files: dict[Path, AnnotationFile]
) -> Iterator[Problem]:
    kept = None if data is None else files.get(data.annotations.resolve())
    if data is None or data.images is None or kept is None or data.images.is_dir():
        return
    if any(not Path(str(name)).is_absolute() for name in kept.images.values()):
        yield Problem(
            "missing_folder",
            loader.name,
            "",
            f"there is no image folder {data.images}; set {loader.name}.dataset.data_root and "
            "data_prefix=dict(img=...)",
            fatal=True,
        )


def _instances_problem(loader: Loader) -> Iterator[Problem]:
    """A metric without a file whose batches do not carry the annotations."""
    if not loader.needs_instances:
        return
    for dataset in loader.datasets:
        packed = [step for step in transforms_of(dataset.get("pipeline")) if "meta_keys" in step]
        if dataset.get("pipeline") and not any("instances" in step["meta_keys"] for step in packed):
            yield Problem(
                "no_instances",
                loader.evaluator or "",
                "",
                f"it has no ann_file, and the pipeline of {loader.name} leaves out 'instances': set ann_file to the "
                "loader's annotation file",
                fatal=True,
            )
            return


def _unlabelled_problem(loader: Loader) -> Iterator[Problem]:
    """An evaluator that compares detections with the labels of a data set that is read without them."""
    for dataset in loader.datasets:
        if loader.compares and not is_labelled(dataset):
            yield Problem(
                "no_labels",
                loader.name,
                "",
                f"its data set has labelled=False, and {loader.evaluator} compares detections with labels: name a "
                "labelled data set, or leave out the evaluation",
                fatal=True,
            )
            return


def _class_problems(loaders: list[Loader]) -> Iterator[Problem]:
    """Data sets that have other class names than the first, which is the training data."""
    known = [
        (loader, dataset, classes)
        for loader in loaders
        for number, (dataset, classes) in enumerate(zip(loader.datasets, loader.classes, strict=True))
        if classes is not None and loader.has_classes_of_training(number)
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
    if has_own_classes(dataset):
        return listed(classes, 5)
    return f"{listed(classes, 5)}, the {len(classes)} of {dataset.get('type')} (no metainfo is given)"
