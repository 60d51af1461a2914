"""What can be known to be wrong before the first training step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lad.detectors import DistillationDetector
from lad.errors import ConfigError

from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn


def check_dataset_files(cfg: Config) -> None:
    """Refuse training or validation annotation files that do not exist.

    Raises:
        ConfigError: names the file and the setting.
    """
    for loader in ("train_dataloader", "val_dataloader"):
        for dataset in _datasets((cfg.get(loader) or {}).get("dataset")):
            name, root = dataset.get("ann_file"), dataset.get("data_root") or ""
            backend = (dataset.get("backend_args") or {}).get("backend", "local")
            if not name or "://" in name or "://" in root or backend not in ("local", "disk"):
                continue
            path = Path(root) / name
            if not path.is_file():
                raise ConfigError(
                    f"{loader}: there is no annotation file {path}; set {loader}.dataset.data_root and ann_file."
                )


def _datasets(config: Any) -> Iterator[dict]:
    """The innermost dataset configs of wrappers (``dataset``) and concatenations (``datasets``)."""
    if not isinstance(config, dict):
        return
    inner = config.get("datasets") or ([config["dataset"]] if config.get("dataset") is not None else [])
    if not inner:
        yield config
    for dataset in inner:
        yield from _datasets(dataset)


def check_training(runner: Runner) -> None:
    """Build the training data and hold it against the model.

    Raises:
        ConfigError: no image to train on; head, data set and teacher disagree about the classes.
    """
    try:
        dataset = runner.train_loop.dataloader.dataset
        count = len(dataset)
    except ValueError as error:
        # numpy's words where MMEngine packs the annotations of no image at all.
        if "need at least one array" not in str(error):
            raise
        count = 0
    if count == 0:
        raise ConfigError(
            "train_dataloader: no image is left to train on: check that the data set's classes (metainfo) are those "
            "of the annotation file, and filter_cfg."
        )
    metainfo = getattr(dataset, "metainfo", None) or {}
    classes = metainfo.get("thing_classes") or metainfo.get("classes")
    if not classes:
        return
    model = runner.model.module if hasattr(runner.model, "module") else runner.model
    for name, head in model.named_modules():
        known = getattr(head, "num_classes", None)
        # One class is an RPN's or a class-agnostic head's; heads on language models count tokens.
        counts = (
            name.endswith("bbox_head") and isinstance(known, int) and not hasattr(model, "language_model")
        )
        if counts and known not in (1, len(classes)):
            raise ConfigError(
                f"{name.removeprefix('student.')} has num_classes={known} but the training data has {len(classes)} "
                f"classes ({', '.join(classes[:3])}, ...): set num_classes or the data set's metainfo."
            )
    _check_teacher_classes(model, tuple(classes))


def _check_teacher_classes(model: nn.Module, classes: tuple[str, ...]) -> None:
    if not isinstance(model, DistillationDetector) or model.teacher.classes is None:
        return
    taught = model.teacher.classes
    by_name = [(name, method) for name, method in model.distillation.items() if method.classes is not None]
    for name, method in by_name:
        if tuple(method.classes) != classes:
            raise ConfigError(
                f"{name}: classes {', '.join(method.classes)} are not the training data's {', '.join(classes)}: give "
                "the data set's classes in its order."
            )
    if not any(method.compares_classes and method.classes is None for method in model.methods):
        return
    if len(taught) == len(classes) and taught != classes:
        first = next(i for i, pair in enumerate(zip(taught, classes, strict=True)) if pair[0] != pair[1])
        raise ConfigError(
            f"the teacher was trained on other classes than the training data: class {first} is {taught[first]!r} "
            f"for the teacher and {classes[first]!r} here; bring the data set's classes into the teacher's order, or "
            "name them where a method takes `classes`."
        )
