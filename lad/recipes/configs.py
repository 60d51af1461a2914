"""The config files: the student alone, its teacher where it is to be trained, and the distillation."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lad.base.config import kind_of
from lad.datasets.configured import datasets_of, is_plain_coco
from lad.datasets.layouts import Layout, Split
from lad.errors import ConfigError
from lad.recipes.choice import Recipe
from lad.recipes.classes import with_classes
from lad.recipes.data import DataSummary
from lad.recipes.text import assignment, python

from mmengine.config import Config

#: Settings of MMDetection's hooks that are numbers of epochs of the schedule.
_EPOCHS_OF_HOOKS = ("switch_epoch", "num_last_epochs")


@dataclass(frozen=True)
class Schedule:
    """What is changed of the base config's training.

    Attributes:
        epochs: None for the base's; its schedulers are scaled with it.
        batch_size: Of each process; None for the base's.
    """

    epochs: int | None = None
    batch_size: int | None = None


def plain_text(
    heading: str, path: str, cfg: Config, layout: Layout, data: DataSummary, schedule: Schedule
) -> str:
    """The config of a detector that is trained alone.

    Args:
        heading: Its first comment.
        path: The base config, as a user writes it.
        cfg: The base config.
        layout, data: The data.
        schedule: What is changed of its training.

    Raises:
        ConfigError: the base's data or evaluation are none that these data can take the place of.
    """
    parts = [_comment(heading), f"_base_ = {python(path)}"]
    metainfo = dict(classes=data.classes)
    train = _dataset(cfg, "train_dataloader", metainfo, layout.train)
    val = _dataset(cfg, "val_dataloader", metainfo, layout.val)
    parts.append("")
    parts.append(_comment(_about(layout, data)))
    if schedule.batch_size is not None:
        train["batch_size"] = schedule.batch_size
    parts.append(assignment("train_dataloader", train))
    parts.append(assignment("val_dataloader", val))
    parts.append("test_dataloader = val_dataloader")
    parts.append(assignment("val_evaluator", _evaluator(cfg, layout, data)))
    parts.append("test_evaluator = val_evaluator")
    if changes := with_classes(cfg.model, len(data.classes)):
        parts.append(assignment("model", changes))
    if schedule.epochs is not None:
        parts += ["", *_scaled_schedule(cfg, schedule.epochs)]
    return "\n".join(parts) + "\n"


def distillation_text(heading: str, student: Path, teacher: Mapping[str, Any], recipe: Recipe) -> str:
    """The config of the distillation, which derives from the student's."""
    lines = [
        _comment(heading),
        f"_base_ = {python(student.name)}  # data, schedule",
        'custom_imports = dict(imports=["lad"], allow_failed_imports=False)',
        "model = dict(",
        "    _delete_=True,",
        '    type="DistillationDetector",',
        f'    student="{{{{ fileDirname }}}}/{student.name}",',
        f"    teacher={python(teacher, 4, 8)},",
        *(f"    # {line}" for line in _wrapped(f"{recipe.why[0].upper()}{recipe.why[1:]}.", 100)),
        f"    methods={python([dict(method) for method in recipe.methods], 4, 8)},",
        ")",
    ]
    lines += [assignment(name, value) for name, value in recipe.settings.items()]
    return "\n".join(lines) + "\n"


def epochs_of(cfg: Config, schedule: Schedule) -> int | None:
    """Number of epochs; None for a training that counts iterations."""
    return schedule.epochs or (cfg.get("train_cfg") or {}).get("max_epochs")


def _about(layout: Layout, data: DataSummary) -> str:
    found = [
        f"{data.images} training images with {data.objects} objects of {len(data.classes)} classes, {data.val_images} "
        f"validation images ({layout.kind})."
    ]
    if data.empty:
        found.append(
            f"{data.empty} training images have no objects: MMDetection leaves them out unless the data set has "
            "filter_cfg=dict(filter_empty_gt=False)."
        )
    if data.rare:
        found.append(f"{data.tail[0].upper()}{data.tail[1:]}: docs/long_tail.md.")
    return " ".join(found)


def _dataset(cfg: Config, loader: str, metainfo: dict, split: Split) -> dict[str, Any]:
    """The changes of a data loader's data set, within its wrappers."""
    dataset = (cfg.get(loader) or {}).get("dataset")
    inner = list(datasets_of(dataset))
    if len(inner) != 1 or not is_plain_coco(inner[0]):
        kinds = ", ".join(str(kind_of(one)) for one in inner) or "nothing"
        raise ConfigError(
            f"{cfg.filename}: {loader} reads {kinds}; take a config that trains on one CocoDataset, such as one of "
            "MMDetection's that end in _coco.py."
        )
    changes: dict[str, Any] = dict(
        metainfo=metainfo,
        # What the base has would be put before the paths.
        data_root="",
        ann_file=str(split.annotations),
        data_prefix=dict(img=f"{split.images}/"),
    )
    for key in reversed(list(_wrappers(dataset))):
        changes = {key: changes}
    return dict(dataset=changes)


def _wrappers(dataset: Any) -> Iterator[str]:
    while isinstance(dataset, dict) and dataset.get("dataset") is not None:
        yield "dataset"
        dataset = dataset["dataset"]


def _evaluator(cfg: Config, layout: Layout, data: DataSummary) -> dict[str, Any]:
    evaluator = cfg.get("val_evaluator")
    if kind_of(evaluator) != "CocoMetric":
        raise ConfigError(
            f"{cfg.filename}: it is evaluated by {kind_of(evaluator) or 'several metrics'}; take a config with "
            "val_evaluator=dict(type='CocoMetric')."
        )
    changes: dict[str, Any] = dict(ann_file=str(layout.val.annotations))
    if data.rare:
        changes["frequencies"] = dict(ann_file=str(layout.train.annotations))
    return changes


def _scaled_schedule(cfg: Config, epochs: int) -> list[str]:
    """Epochs, and the schedulers that count them, scaled."""
    before = (cfg.get("train_cfg") or {}).get("max_epochs")
    if not before:
        raise ConfigError(f"{cfg.filename} counts iterations, not epochs: leave --epochs out.")
    factor = epochs / before
    schedulers = []
    for scheduler in cfg.get("param_scheduler") or []:
        own = dict(scheduler)
        if own.get("by_epoch", True):
            for key in ("begin", "end", "T_max"):
                if isinstance(own.get(key), int):
                    own[key] = max(round(own[key] * factor), 0 if key == "begin" else 1)
            if own.get("milestones"):
                own["milestones"] = sorted({max(round(one * factor), 1) for one in own["milestones"]})
        schedulers.append(own)
    lines = [f"# {before} epochs in the base config; what its schedulers and hooks count is scaled alike."]
    loop: dict[str, Any] = dict(max_epochs=epochs)
    if intervals := cfg.train_cfg.get("dynamic_intervals"):
        loop["dynamic_intervals"] = [(max(round(start * factor), 1), every) for start, every in intervals]
    lines.append(assignment("train_cfg", loop))
    if schedulers:
        lines.append(assignment("param_scheduler", schedulers))
    hooks = [dict(hook) for hook in cfg.get("custom_hooks") or [] if isinstance(hook, dict)]
    counting = [(hook, key) for hook in hooks for key in _EPOCHS_OF_HOOKS if isinstance(hook.get(key), int)]
    for hook, key in counting:
        hook[key] = max(round(hook[key] * factor), 1)
    if counting:
        lines.append(assignment("custom_hooks", hooks))
    return lines


def _comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in _wrapped(text, 106))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
