"""Checks of built data sets: what their labels and images are, whatever their configs and types."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

from lad.cli.data_checks import AnnotationFile
from lad.cli.loaders import LOADERS, Loader
from lad.compat.messages import NUMPY_NOTHING_TO_CONCATENATE
from lad.datasets.coco_checks import label_mismatch
from lad.datasets.coco_file import hashable
from lad.datasets.coverage import innermost
from lad.datasets.problems import Problem
from lad.errors import ConfigError, listed

from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dist import get_world_size


def built_problems(
    datasets: Mapping[str, Any],
    loaders: list[Loader],
    files: Mapping[Path, AnnotationFile],
    batch_sizes: Mapping[str, int],
) -> Iterator[Problem]:
    """Problems of built data sets.

    Args:
        datasets: The data sets by the names of their loaders.
        loaders: The loaders.
        files: The annotation files that were read, by resolved path.
        batch_sizes: Of the loaders that drop an incomplete last batch, by name.
    """
    yield from _class_problems(datasets, loaders, files)
    compared = [
        loader for loader in loaders if loader.name in datasets and loader.compares and not loader.in_parts
    ]
    # Validation and test often share a data set.
    read = {id(datasets[loader.name]): datasets[loader.name] for loader in compared}
    images_by_id = {number: images_of(dataset) for number, dataset in read.items()}
    for loader in compared:
        images = images_by_id[id(datasets[loader.name])]
        yield from _image_problems(loader, images, files)
        yield from _dropped_images(loader, len(images), batch_sizes.get(loader.name))


def _class_problems(
    datasets: Mapping[str, Any], loaders: list[Loader], files: Mapping[Path, AnnotationFile]
) -> Iterator[Problem]:
    """Data sets whose labels mean other classes than those of the first, which is the training data."""
    truth: tuple[str, ...] | None = None
    for loader in loaders:
        for number, dataset in enumerate(innermost(datasets.get(loader.name))):
            classes = class_names(dataset)
            if (
                classes is None
                or number >= len(loader.datasets)
                or not loader.has_classes_of_training(number)
            ):
                continue
            truth = truth or classes
            where = str(getattr(dataset, "ann_file", "") or loader.name)
            if classes != truth:
                yield Problem(
                    "other_classes",
                    loader.name,
                    "",
                    f"the classes of {where} are {listed(classes, 5)} and those of the training data "
                    f"{listed(truth, 5)}: give all data sets the same classes",
                    fatal=True,
                )
            known = files.get(Path(where).resolve())
            numbers = getattr(dataset, "cat_ids", None)
            if known is not None and isinstance(numbers, list):
                names = [known.categories.get(hashable(one), str(one)) for one in numbers]
                message = label_mismatch(names, classes)
                if message:
                    yield Problem("class_order", where, "", message, fatal=True)


def class_names(dataset: Any) -> tuple[str, ...] | None:
    """Class names of a built data set of boxes; None if it has none, or is of another kind (video)."""
    metainfo = getattr(dataset, "metainfo", None)
    if not isinstance(dataset, BaseDetDataset) or not isinstance(metainfo, dict):
        return None
    classes = metainfo.get("thing_classes") or metainfo.get("classes")
    return tuple(map(str, classes)) if isinstance(classes, (list, tuple)) else None


def images_of(dataset: Any) -> list[tuple[Any, str]]:
    """Id and path of each image that a built data set yields, those of wrappers that repeat images repeated."""
    sources = [dataset] if hasattr(dataset, "get_data_info") else list(innermost(dataset))
    infos = (source.get_data_info(index) for source in sources for index in range(len(source)))
    return [(hashable(info["img_id"]), str(info.get("img_path"))) for info in infos if "img_id" in info]


def _image_problems(
    loader: Loader, images: list[tuple[Any, str]], files: Mapping[Path, AnnotationFile]
) -> Iterator[Problem]:
    """Evaluators that compare detections with the annotations of other images than their loader yields."""
    if not images:
        return
    repeated = [str(number) for number, count in Counter(number for number, _ in images).items() if count > 1]
    if repeated:
        yield Problem(
            "repeated_image",
            loader.name,
            "",
            f"it yields images more than once (ids {listed(repeated)}), and their detections would count twice: take "
            "out RepeatDataset and ClassBalancedDataset, and give the images of concatenated files ids of their own",
            fatal=True,
        )
    loaded = dict(images)
    for evaluated in loader.evaluated:
        known = files.get(evaluated.path.resolve())
        if evaluated.format_only or known is None:
            continue
        message = _other_images(loaded, known)
        if message:
            names = listed(str(one.get("ann_file") or one.get("type")) for one in loader.datasets)
            yield Problem(
                "other_file",
                f"{loader.evaluator}.ann_file",
                "",
                f"it is {evaluated.path} and {loader.name} reads {names}: {message}; name the file that the loader "
                "reads",
                fatal=True,
            )


def _other_images(loaded: dict[Any, str], evaluated: AnnotationFile) -> str:
    """How the images of a loader (id: path) differ from those of an evaluator; empty if they do not."""
    unknown = [str(number) for number in loaded if number not in evaluated.images]
    if unknown:
        return f"{len(unknown)} of {len(loaded)} images (id {listed(unknown)}) are not in it"
    unread = [number for number in evaluated.images if number not in loaded and number in evaluated.filled]
    if unread:
        return (
            f"{len(unread)} of its {len(evaluated.images)} images are not loaded, and their objects would count as "
            "missed (a filter, indices, another file)"
        )
    for number, path in loaded.items():
        name = evaluated.images[number]
        # Windows' paths have both separators.
        if name is not None and PureWindowsPath(str(name)).name != PureWindowsPath(path).name:
            return f"image {number} is {name} in it and {PureWindowsPath(path).name} in the loader's file"
    return ""


def _dropped_images(loader: Loader, images: int, batch_size: int | None) -> Iterator[Problem]:
    if batch_size is None:
        return
    left = math.ceil(images / get_world_size()) % batch_size
    if left:
        yield Problem(
            "dropped_images",
            loader.name,
            "",
            f"drop_last=True leaves out the last {left} images, whose objects would count as missed: set it to False",
            fatal=True,
        )


def dropping_batch_sizes(cfg: Config) -> dict[str, int]:
    """Batch sizes of the loaders of a config that drop an incomplete last batch, by name."""
    loaders = {name: cfg.get(name) or {} for name in LOADERS}
    return {
        name: loader.get("batch_size") or 1 for name, loader in loaders.items() if loader.get("drop_last")
    }


def built(name: str, build: Callable[[], Any]) -> Any:
    """Build the data of a loader.

    Args:
        name: The loader's.
        build: Returns its data set.

    Raises:
        ConfigError: no image is left in it.
    """
    try:
        dataset = build()
        if len(dataset):
            return dataset
    except ValueError as error:
        if NUMPY_NOTHING_TO_CONCATENATE not in str(error):
            raise
    purpose = " to train on" if LOADERS[name] is None else ""
    raise ConfigError(
        f"{name}: no image is left{purpose}: check that the data set's classes (metainfo) are those of the annotation "
        "file, and filter_cfg."
    )


def build_datasets(cfg: Config, names: Collection[str]) -> dict[str, Any]:
    """Build the data sets of loaders of a config, by the loaders' names; equal configs are built once."""
    datasets: dict[str, Any] = {}
    for name in names:
        config = copy.deepcopy(cfg[name]["dataset"])
        same = next((other for other in datasets if cfg[other]["dataset"] == config), None)
        datasets[name] = datasets[same] if same is not None else built(name, partial(DATASETS.build, config))
    return datasets
