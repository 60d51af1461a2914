"""Checks of a config, its data and its model before the first training step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lad.cli.built_checks import (
    build_datasets,
    built,
    built_problems,
    class_names,
    dropping_batch_sizes,
)
from lad.cli.data_checks import DataReport, inspect_data
from lad.cli.label_checks import check_labels, check_views
from lad.cli.loaders import loaders_of
from lad.datasets.configured import (
    annotation_file,
    datasets_of,
    first_difference,
    loaded_channels,
    setting,
)
from lad.datasets.coverage import content_of, innermost
from lad.datasets.problems import Problem, summary
from lad.detectors.head_classes import head_classes
from lad.detectors.inspection import bound_methods, deployed_network, teacher_label
from lad.detectors.masks import check_loads_masks, predicts_masks
from lad.engine.model import detector_of
from lad.errors import ConfigError, DataError, nearest
from lad.evaluation.configured import evaluated_files
from lad.methods.base import DistillationMethod
from lad.networks.channels import image_channels
from lad.networks.shapes import check_shapes

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner
from torch import nn


def check_annotations(cfg: Config) -> DataReport | None:
    """Check the annotation files of a training: of training, validation and evaluator, and of the test if present.

    What no training can be right with is refused: files that are not COCO's, ids that occur twice, infinite boxes, data
    sets and evaluators that disagree about classes. The rest is counted in a warning, or refused too with
    ``bad_data=dict(annotations='stop')`` in the config. Rank 0 reads each file once more for it.

    Returns:
        The report; None on other ranks.

    Raises:
        ConfigError: ``bad_data`` or a setting of the data is not understood.
        DataError: the first problem and how many there are.
    """
    policy = bad_data_policy(cfg)["annotations"]
    loaders = loaders_of(cfg)
    if not is_main_process():
        return None
    report = inspect_data(loaders)
    _refuse(report.problems if policy == "stop" and not report.fatal else report.fatal)
    for file in dict.fromkeys(problem.file for problem in report.problems):
        found = [problem for problem in report.problems if problem.file == file]
        _warn(
            f"{file}: {summary(found)}. `lad check` lists them; bad_data=dict(annotations='stop') refuses them."
        )
    for path, coverage in report.coverage:
        level = logging.INFO if coverage.complete else logging.WARNING
        print_log(f"{path}: {coverage}.", logger="current", level=level)
    return report


def check_test_data(runner: Runner) -> None:
    """Check the data of a test and its evaluator, before a checkpoint is evaluated on them.

    Raises:
        ConfigError: a setting is not understood.
        DataError: the evaluation would be meaningless.
    """
    loaders = loaders_of(runner.cfg, ("test_dataloader",))
    if is_main_process():
        report = inspect_data(loaders, present_only=())
        _refuse(report.fatal)
        dataset = built("test_dataloader", lambda: runner.test_loop.dataloader.dataset)
        datasets = {"test_dataloader": dataset}
        _refuse(list(built_problems(datasets, loaders, report.files, dropping_batch_sizes(runner.cfg))))


def _refuse(problems: list[Problem]) -> None:
    if problems:
        others = problems[1:]
        more = f"; {len(others)} more ({summary(others)})" if others else ""
        raise DataError(f"{problems[0]}{more}; `lad check` lists all.")


def _warn(message: str) -> None:
    print_log(message, logger="current", level=logging.WARNING)


def bad_data_policy(cfg: Config) -> dict[str, str]:
    """The policy of a config's ``bad_data``, with its defaults.

    ``annotations``: ``'skip'`` (default: count what MMDetection leaves out) or ``'stop'``; ``images`` that cannot be
    loaded, or have another size than their annotations: ``'stop'`` (default) or ``'skip'``.

    Raises:
        ConfigError: other keys or values.
    """
    policy = dict(annotations="skip", images="stop")
    wanted = cfg.get("bad_data") or {}
    if (
        not isinstance(wanted, dict)
        or not set(wanted) <= set(policy)
        or not all(isinstance(value, str) for value in wanted.values())
        or not set(wanted.values()) <= {"skip", "stop"}
    ):
        raise ConfigError(
            f"bad_data must be like dict(annotations='skip', images='stop'), each 'skip' or 'stop'; got {wanted!r}."
        )
    return policy | dict(wanted)


def check_dataset_files(cfg: Config) -> None:
    """Refuse training or validation annotation files that do not exist.

    Raises:
        ConfigError: names the file and the setting.
    """
    for loader in ("train_dataloader", "val_dataloader"):
        config = setting(cfg, loader, dict, "the config") or {}
        for dataset in datasets_of(setting(config, "dataset", dict, loader)):
            path = annotation_file(dataset, loader)
            if path is not None and not path.is_file():
                raise ConfigError(
                    f"{loader}: there is no annotation file {path}; set {loader}.dataset.data_root and ann_file."
                )
    for file in evaluated_files(cfg.get("val_evaluator")):
        if not file.path.is_file():
            raise ConfigError(
                f"val_evaluator: there is no annotation file {file.path}; set val_evaluator.ann_file."
            )


def check_completeness(cfg: Config) -> None:
    """Refuse what would be found only after hours, such as at the first validation.

    Raises:
        ConfigError: half of a validation; an unknown optimizer or kind of non-maximum suppression.
    """
    parts = {name: cfg.get(name) for name in ("val_dataloader", "val_cfg", "val_evaluator")}
    missing = [name for name, part in parts.items() if part is None]
    if missing and len(missing) < len(parts):
        raise ConfigError(
            f"validation needs {', '.join(parts)}; {missing[0]} is None: set it, or all to None."
        )
    optimizer = (cfg.get("optim_wrapper") or {}).get("optimizer") or {}
    kind = optimizer.get("type") if isinstance(optimizer, dict) else None
    # MMEngine's own answer to an unknown one is an error of Python's about None.
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        raise ConfigError(
            f"optim_wrapper.optimizer: there is no {kind!r}{nearest(kind, OPTIMIZERS.module_dict)}."
        )
    for path, nms in _nms_of(cfg.get("model"), "model"):
        kind = nms.get("type", "nms")
        if kind not in NMS_TYPES:
            raise ConfigError(
                f"{path}: there is no {kind!r}{nearest(str(kind), NMS_TYPES)}; MMCV has {', '.join(NMS_TYPES)}."
            )


# What mmcv.ops.batched_nms can find by its name.
NMS_TYPES = ("nms", "soft_nms", "nms_quadri", "nms_rotated")


def _nms_of(config: Any, path: str) -> Iterator[tuple[str, dict]]:
    """Every ``nms=dict(...)`` in a model config, with its path."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "nms" and isinstance(value, dict):
                yield f"{path}.nms", value
            else:
                yield from _nms_of(value, f"{path}.{key}")
    elif isinstance(config, (list, tuple)):
        for number, value in enumerate(config):
            yield from _nms_of(value, f"{path}.{number}")


def check_training(runner: Runner) -> None:
    """Build the training and validation data and hold them against each other and the model.

    Raises:
        ConfigError: no image or object to train on; head, data set and teacher disagree about the classes.
        DataError: data that cannot be trained on or evaluated with; see :func:`check_annotations`.
    """
    report = check_annotations(runner.cfg)
    model = detector_of(runner)
    check_shapes(model)
    check_labels(runner.cfg, model)
    check_loads_masks(model, runner.cfg.train_dataloader)
    _check_channels(runner.cfg, model)
    _check_mask_metric(runner.cfg, model)
    dataset = built("train_dataloader", lambda: runner.train_loop.dataloader.dataset)
    check_views(runner, model)
    highest = _check_objects(dataset, report)
    classes = next((one for one in map(class_names, innermost(dataset)) if one is not None), ())
    _check_heads(model, classes, highest)
    if classes:
        _check_teacher_classes(model, classes)
    if report is not None:
        _check_built(runner, dataset, report)


def _check_built(runner: Runner, dataset: Any, report: DataReport) -> None:
    """Compare the built training, validation and test data with each other and their evaluators."""
    cfg, loaders = runner.cfg, loaders_of(runner.cfg)
    datasets = {"train_dataloader": dataset}
    if cfg.get("val_dataloader") is not None:
        datasets["val_dataloader"] = built("val_dataloader", lambda: runner.val_loop.dataloader.dataset)
    test = next((loader for loader in loaders if loader.name == "test_dataloader"), None)
    if test is not None and test.is_present and all(test.data):
        same = "val_dataloader" in datasets and cfg.test_dataloader.dataset == cfg.val_dataloader.dataset
        datasets |= (
            {test.name: datasets["val_dataloader"]} if same else build_datasets(cfg, ["test_dataloader"])
        )
    _refuse(list(built_problems(datasets, loaders, report.files, dropping_batch_sizes(cfg))))


def _check_objects(dataset: Any, report: DataReport | None) -> int:
    """Refuse a built training data set without objects, and report where it holds other numbers than were counted.

    Args:
        dataset: The built data set.
        report: What was counted in the annotation files; None on ranks that did not read them.

    Returns:
        The highest label; -1 where the data set does not list its objects.
    """
    contents = {}
    counted: dict[Path, list[tuple[int, int]]] = {}
    for path, coverage in report.coverage if report is not None else ():
        counted.setdefault(path, []).append((coverage.images, coverage.objects))
    for one in innermost(dataset):
        if getattr(one, "labelled", True) and (content := content_of(one)) is not None:
            contents[one] = content
            expected = counted.get(Path(getattr(one, "ann_file", None) or ""))
            if expected and (content.images, content.objects) not in expected:
                _warn(
                    f"{one.ann_file}: its data set holds {content.images} images and {content.objects} objects."
                )
    if contents and not any(content.objects for content in contents.values()):
        raise ConfigError(
            "train_dataloader: no object is left to train on in "
            f"{sum(content.images for content in contents.values())} images: `lad check` says why."
        )
    return max([content.highest_label for content in contents.values()], default=-1)


def _check_heads(model: nn.Module, classes: tuple[str, ...], highest: int) -> None:
    """Compare the number of classes of each box and mask head with the training data's."""
    if hasattr(model, "language_model"):
        return  # its heads count tokens
    for name, known in head_classes(model):
        place = name.removeprefix("student.")
        if classes and known != len(classes):
            raise ConfigError(
                f"{place} has num_classes={known} but the training data has {len(classes)} classes "
                f"({', '.join(classes[:3])}, ...): set num_classes or the data set's metainfo."
            )
        if highest >= known:
            raise ConfigError(
                f"{place} has num_classes={known} but the training data has label {highest}: set num_classes, or the "
                "data set's classes."
            )


def _check_channels(cfg: Config, model: nn.Module) -> None:
    """Refuse pipelines that load images of another number of channels than the detector takes."""
    taken = image_channels(deployed_network(model))
    for loader in ("train_dataloader", "val_dataloader"):
        for dataset in datasets_of((cfg.get(loader) or {}).get("dataset")):
            loaded = loaded_channels(dataset.get("pipeline"))
            if loaded is not None and loaded != taken:
                raise ConfigError(
                    f"{loader}: its pipeline loads images of {loaded} channels and the detector takes {taken}: set "
                    "color_type of its LoadImageFromFile ('grayscale' for 1, 'color' for 3), or in_channels of the "
                    "backbone."
                )


def _check_mask_metric(cfg: Config, model: nn.Module) -> None:
    """Refuse to evaluate masks that the detector does not predict."""
    for file in evaluated_files(cfg.get("val_evaluator")):
        if file.masks and not predicts_masks(model):
            raise ConfigError(
                "val_evaluator: metric 'segm' evaluates masks, and the detector predicts none: set metric='bbox'."
            )


def _check_teacher_classes(model: nn.Module, classes: tuple[str, ...]) -> None:
    for name, one in bound_methods(model).items():
        if one.route is None:
            continue
        method, teacher = one.method, one.route.teacher
        known = {teacher_label(model, name): teacher} if teacher is not None else one.route.members
        for label, each in known.items():
            _check_classes(name, method, label, each.classes or (), classes)


def _check_classes(
    name: str, method: DistillationMethod, label: str, taught: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    """Refuse a method's classes, or those of one of its teachers, that are not the training data's.

    Args:
        name: The method's.
        method: The method.
        label: The teacher's name; empty for the only one.
        taught: The teacher's classes; empty if its checkpoint records none.
        classes: The training data's.
    """
    if method.classes is not None:
        if tuple(method.classes) != classes:
            raise ConfigError(
                f"{name}: classes {', '.join(method.classes)} are not the training data's {', '.join(classes)}: "
                "give the data set's classes in its order."
            )
    elif (
        method.compares_classes
        and len(taught) == len(classes)
        and (first := first_difference(taught, classes)) is not None
    ):
        which = f" {label}" if label else ""
        raise ConfigError(
            f"the teacher{which} was trained on other classes than the training data: class {first} is "
            f"{taught[first]!r} for the teacher and {classes[first]!r} here; bring the data set's classes into the "
            "teacher's order, or name them where a method takes `classes`."
        )
