"""Checks of a config, its data and its model before the first training step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lad.compat.messages import NUMPY_NOTHING_TO_CONCATENATE
from lad.datasets.checking import Problem, check_coco, read_coco, summary
from lad.detectors.inspection import bound_methods, teacher_label
from lad.engine.model import detector_of
from lad.errors import ConfigError, DataError, nearest
from lad.networks.shapes import check_shapes

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner
from torch import nn


@dataclass(frozen=True)
class CocoData:
    """Files of a COCO data set of a config.

    Attributes:
        annotations: The annotation file.
        images: The folder that its file names are in.
        classes: The class names that the config trains on; None for those of the file.
    """

    annotations: Path
    images: Path
    classes: tuple[str, ...] | None


def coco_data(dataset: dict) -> CocoData | None:
    """Find the files of an innermost data set config; None if they are not local files of COCO's format."""
    kind: Any = dataset.get("type")
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    is_coco = isinstance(kind, type) and issubclass(kind, CocoDataset)
    if not is_coco:
        return None
    if (kind.load_data_list, kind.parse_data_info) != (
        CocoDataset.load_data_list,
        CocoDataset.parse_data_info,
    ):
        # LVIS and others read their files in their own way.
        return None
    name, root = dataset.get("ann_file"), dataset.get("data_root") or ""
    if not name or not _is_local(dataset):
        return None
    prefix = (dataset.get("data_prefix") or {}).get("img") or ""
    metainfo = dataset.get("metainfo") or {}
    classes = metainfo.get("classes") if isinstance(metainfo, dict) else None
    classes = classes or kind.METAINFO.get("classes")
    return CocoData(Path(root) / name, Path(root) / prefix, None if classes is None else tuple(classes))


def _is_local(dataset: dict) -> bool:
    backend = (dataset.get("backend_args") or {}).get("backend", "local")
    paths = f"{dataset.get('ann_file')} {dataset.get('data_root')}"
    return "://" not in paths and backend in ("local", "disk")


def check_annotations(cfg: Config) -> None:
    """Hold the training annotations against COCO's format; rank 0 reads them once more for it.

    What no training can be right with (not COCO's format, ids that occur twice, infinite boxes, classes that the file
    does not know) is refused. The rest is counted in a warning, or refused too with
    ``bad_data=dict(annotations='stop')`` in the config.

    Raises:
        ConfigError: ``bad_data`` is not understood.
        DataError: the first problem and how many there are.
    """
    policy = bad_data_policy(cfg)["annotations"]
    if not is_main_process():
        return
    for dataset in datasets_of((cfg.get("train_dataloader") or {}).get("dataset")):
        data = coco_data(dataset)
        if data is None:
            continue
        content, problems = read_coco(data.annotations)
        if content is not None:
            problems = check_coco(content, str(data.annotations), data.classes)
        fatal = [problem for problem in problems if problem.fatal]
        if fatal or (problems and policy == "stop"):
            raise DataError(_first_of(fatal or problems))
        if problems:
            print_log(
                f"{data.annotations}: {summary(problems)}. MMDetection leaves out boxes without area, outside "
                "their image or of unknown categories. tools/check_dataset.py lists them; "
                "bad_data=dict(annotations='stop') refuses them.",
                logger="current",
                level=logging.WARNING,
            )


def _first_of(problems: list[Problem]) -> str:
    more = f"; {len(problems) - 1} more problems ({summary(problems)})" if len(problems) > 1 else ""
    return f"{problems[0]}{more}; tools/check_dataset.py lists all."


def bad_data_policy(cfg: Config) -> dict[str, str]:
    """The policy of a config's ``bad_data`` for ``annotations`` (default 'skip') and ``images`` (default 'stop').

    The defaults are what MMDetection does: it leaves out annotations that it cannot use, and stops at an image that it
    cannot read.

    Raises:
        ConfigError: other keys or values.
    """
    policy = dict(annotations="skip", images="stop")
    wanted = cfg.get("bad_data") or {}
    if (
        not isinstance(wanted, dict)
        or not set(wanted) <= set(policy)
        or not set(wanted.values()) <= {"skip", "stop"}
    ):
        raise ConfigError(
            f"bad_data must be like dict(annotations='skip', images='stop'), each 'skip' or 'stop'; got {wanted!r}."
        )
    return policy | dict(wanted)


def check_dataset_files(cfg: Config) -> None:
    """Refuse training or validation annotation files and image folders that do not exist.

    Raises:
        ConfigError: names the file and the setting.
    """
    for loader in ("train_dataloader", "val_dataloader"):
        for dataset in datasets_of((cfg.get(loader) or {}).get("dataset")):
            name, root = dataset.get("ann_file"), dataset.get("data_root") or ""
            if not name or not _is_local(dataset):
                continue
            path = Path(root) / name
            if not path.is_file():
                raise ConfigError(
                    f"{loader}: there is no annotation file {path}; set {loader}.dataset.data_root and ann_file."
                )
            data = coco_data(dataset)
            if data is not None and not data.images.is_dir():
                raise ConfigError(
                    f"{loader}: there is no image folder {data.images}; set {loader}.dataset.data_root and "
                    "data_prefix=dict(img=...)."
                )
    evaluators = cfg.get("val_evaluator") or []
    for evaluator in [evaluators] if isinstance(evaluators, dict) else evaluators:
        name = evaluator.get("ann_file")
        remote = "://" in str(name) or evaluator.get("backend_args")
        if name and not remote and not Path(name).is_file():
            raise ConfigError(
                f"val_evaluator: there is no annotation file {name}; set val_evaluator.ann_file."
            )


def datasets_of(config: Any) -> Iterator[dict]:
    """The innermost dataset configs of wrappers (``dataset``) and concatenations (``datasets``)."""
    if not isinstance(config, dict):
        return
    inner = config.get("datasets") or ([config["dataset"]] if config.get("dataset") is not None else [])
    if not inner:
        yield config
    for dataset in inner:
        yield from datasets_of(dataset)


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
    """Build the training data and hold it against the model.

    Raises:
        ConfigError: no image to train on; head, data set and teacher disagree about the classes.
        DataError: annotations that cannot be trained on; see :func:`check_annotations`.
    """
    check_annotations(runner.cfg)
    model = detector_of(runner)
    check_shapes(model)
    try:
        dataset = runner.train_loop.dataloader.dataset
        count = len(dataset)
    except ValueError as error:
        if NUMPY_NOTHING_TO_CONCATENATE not in str(error):
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
    for name, head in model.named_modules():
        known = getattr(head, "num_classes", None)
        # One class is an RPN's or a class-agnostic head's; heads on language models count tokens.
        is_head = "bbox_head" in name.split(".")[-2:]  # a cascade's are bbox_head.0 and so on
        counts = is_head and isinstance(known, int) and not hasattr(model, "language_model")
        if counts and known not in (1, len(classes)):
            raise ConfigError(
                f"{name.removeprefix('student.')} has num_classes={known} but the training data has {len(classes)} "
                f"classes ({', '.join(classes[:3])}, ...): set num_classes or the data set's metainfo."
            )
    _check_teacher_classes(model, tuple(classes))


def _check_teacher_classes(model: nn.Module, classes: tuple[str, ...]) -> None:
    for name, one in bound_methods(model).items():
        method, taught = one.method, None if one.route is None else one.route.teacher.classes
        if taught is None:
            continue
        if method.classes is not None:
            if tuple(method.classes) != classes:
                raise ConfigError(
                    f"{name}: classes {', '.join(method.classes)} are not the training data's {', '.join(classes)}: "
                    "give the data set's classes in its order."
                )
        elif method.compares_classes and len(taught) == len(classes) and taught != classes:
            first = next(i for i, pair in enumerate(zip(taught, classes, strict=True)) if pair[0] != pair[1])
            label = teacher_label(model, name)
            which = f" {label}" if label else ""
            raise ConfigError(
                f"the teacher{which} was trained on other classes than the training data: class {first} is "
                f"{taught[first]!r} for the teacher and {classes[first]!r} here; bring the data set's classes into the "
                "teacher's order, or name them where a method takes `classes`."
            )
