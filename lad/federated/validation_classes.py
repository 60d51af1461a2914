"""The server's validation data in the federation's order of classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lad.cli.loaders import loaders_of
from lad.datasets.configured import annotation_file, is_labelled, is_local, is_plain_coco
from lad.engine.checkpoints import write_whole
from lad.errors import ConfigError, DataError, listed
from lad.evaluation.configured import is_coco_metric, metrics_of
from lad.federated.classes import mapped_file

from mmengine.config import Config

_DATA, _METRICS = "val_dataloader", "val_evaluator"


def align_validation(cfg: Config, classes: Sequence[str], folder: Path) -> list[str]:
    """Bring the validation data of a config and its evaluator into the federation's classes, by name; in place.

    MMDetection numbers labels in the order of an annotation file's categories. Where that is another, or there are
    other classes, a copy of the file with the federation's is written and read instead; objects of other classes are
    not in it, as they are in no validation of these classes. Data sets that get their classes as text, or are evaluated
    one by one, stay as they are.

    Args:
        cfg: The federation's config.
        classes: The federation's class names in the order of the detector's outputs.
        folder: Where copies of annotation files go.

    Returns:
        What was changed, a line each.

    Raises:
        ConfigError: a data set of the config has other classes than the federation.
        DataError: an annotation file cannot be read, or lacks one of the classes.
    """
    copies: dict[Path, str | None] = {}

    def copy_of(path: Path, where: str) -> str | None:
        """The file to read instead of one; None if it is right as it is."""
        if path not in copies:
            copies[path] = _write_copy(path, classes, folder / f"annotations_{len(copies)}.json", where)
        return copies[path]

    for loader in loaders_of(cfg, (_DATA,)):
        if loader.in_parts:
            return []
        for number, (dataset, own) in enumerate(zip(loader.datasets, loader.classes, strict=True)):
            if not loader.has_classes_of_training(number) or not is_labelled(dataset):
                continue
            if own is not None:
                _check_names(own, classes)
                dataset["metainfo"] = dict(dataset.get("metainfo") or {}, classes=tuple(classes))
            path = annotation_file(dataset, _DATA)
            if path is not None and is_plain_coco(dataset) and (copy := copy_of(path, _DATA)) is not None:
                dataset["ann_file"] = copy
        for metric in metrics_of(cfg.get(_METRICS), _METRICS):
            name = metric.get("ann_file")
            if name and is_coco_metric(metric) and is_local(name, metric.get("backend_args"), _METRICS):
                metric["ann_file"] = copy_of(Path(name), _METRICS) or name
    return [
        f"the categories of {path} are mapped by name to {listed(classes, 10)} for the server's evaluation"
        for path, copy in copies.items()
        if copy is not None
    ]


def _write_copy(path: Path, classes: Sequence[str], out: Path, where: str) -> str | None:
    mapped = mapped_file(path, classes, where)
    if mapped is None:
        return None
    if mapped.absent:
        raise DataError(
            f"{where}: {path} has no category {listed(map(repr, mapped.absent), 10)}, which the federation has: add it "
            "(it needs no objects), name it as train_dataloader does, or take the class out of train_dataloader."
        )
    write_whole(out.resolve(), json.dumps(mapped.content).encode())
    return str(out.resolve())


def _check_names(own: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse a validation data set whose config names other classes than the federation's, in whatever order."""
    if set(own) != set(classes):
        odd = next(name for name in [*classes, *own] if (name in own) != (name in classes))
        owner = "the federation" if odd in classes else "its data set"
        raise ConfigError(
            f"{_DATA}: class {odd!r} is one of {owner} alone: give its data set the metainfo=dict(classes=(...)) of "
            "train_dataloader."
        )
