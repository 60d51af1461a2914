"""Digests of the parts of a config that decide the result of a training."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lad.base.config import detector_config
from lad.detectors.configs import describes_detectors, is_distillation, with_networks
from lad.engine.defaults import LOOPS
from suites.suite import placeholders

from mmengine.config import Config, ConfigDict

ROOT = Path(__file__).resolve().parents[2]
TRAINING = (
    "model",
    "train_dataloader",
    "train_cfg",
    "optim_wrapper",
    "param_scheduler",
    "randomness",
    "custom_hooks",
    "load_from",
    "auto_scale_lr",
    "default_hooks",
)
EVALUATION = ("model", "test_dataloader", "test_evaluator")
# Speed of data loading and locations of files do not affect the result.
PASSED_OVER = {
    "train_dataloader": ("num_workers", "persistent_workers", "pin_memory", "on_error"),
    "test_dataloader": ("num_workers", "persistent_workers", "pin_memory", "on_error"),
    "train_cfg": ("val_interval",),
    "test_evaluator": ("outfile_prefix", "backend"),
}
# Keys of a teacher that do not affect the result: its weights (see `teacher_checkpoints`), its speed, and where its
# outputs are kept.
OF_TEACHER = ("checkpoint", "speed", "cache")
# tools/train.py puts its own in the place of MMDetection's, which compute the same.
SAME = {own: plain for plain, own in LOOPS.items()} | {"LoadCheckedImageFromFile": "LoadImageFromFile"}
# Hooks that only observe or write files.
IDLE_HOOKS = ("logger", "checkpoint", "timer", "visualization")
# What every training gets from MMEngine.
USUAL_HOOKS = dict(
    runtime_info="RuntimeInfoHook", sampler_seed="DistSamplerSeedHook", param_scheduler="ParamSchedulerHook"
)
# What tools/train.py adds, and takes out where a config has None. The watching ones compute nothing.
WATCHING_HOOKS = dict(
    checkpoint_fit="CheckpointFitHook",
    resume="ResumeHook",
    preemption="PreemptionHook",
    numerical_faults="NumericalFaultHook",
    teacher_check="TeacherCheckHook",
)
ADDED_HOOKS = dict(WATCHING_HOOKS, phases="PhaseHook")
_detectors: dict[str, ConfigDict] = {}


def digests(cfg: Config, parts: Sequence[str]) -> dict[str, str]:
    """A hash of each of some parts of a config.

    The same for a config file with its options and for what ``tools/train.py`` wrote of it into the work_dir.
    Configs of student, teacher and networks are read, so a change in their files is seen; checkpoints of teachers are
    left out.
    """
    return {part: _hash(_part(cfg, part)) for part in parts}


def digest(parts: Mapping[str, str], needs: Mapping[str, str] | None = None) -> str:
    """Combine the hashes of :func:`digests` and of the needed trainings into one."""
    return _hash([dict(parts), dict(needs or {})])


def teacher_checkpoints(model: dict) -> dict[str, str]:
    """File names of the teachers' weights that a model config names itself, without their folders.

    Placeholders are left out: the training that is needed determines these weights.
    """
    teachers = model.get("teachers")
    specs = {"teacher": model.get("teacher"), **(teachers if isinstance(teachers, dict) else {})}
    named = {name: spec.get("checkpoint") for name, spec in specs.items() if isinstance(spec, dict)}
    named["teacher_ckpt"] = model.get("teacher_ckpt")  # of MMDetection's detectors
    return {
        name: PurePosixPath(path).name
        for name, path in named.items()
        if isinstance(path, str) and not placeholders(path)
    }


def with_detectors(model: dict) -> dict:
    """A model config with the configs of its detectors in the place of their paths.

    What comes out is whole: an edit of a detector's file does not change it any more.

    Raises:
        ConfigError: a detector's description is none, or its file is not there.
    """
    if not describes_detectors(model):
        return dict(model)
    return with_networks(
        model, trained=lambda spec, role: _detector(spec), frozen=lambda spec, role: _teacher(spec)
    )


def _part(cfg: Config, part: str) -> Any:
    value = cfg.get(part)
    if part == "model" and isinstance(value, dict):
        value = _without_files(with_detectors(value))
    elif part == "default_hooks":
        value = _deciding_hooks(value or {})
    elif part == "auto_scale_lr":
        value = value if (value or {}).get("enable") else None
    return _plain(value, PASSED_OVER.get(part, ()))


def _without_files(model: dict) -> dict:
    """A resolved model without the paths of its teachers' weights, which do not decide a result."""
    model = {
        key: value for key, value in model.items() if key != "teacher_ckpt"
    }  # of MMDetection's detectors
    if is_distillation(model):
        model = with_networks(model, frozen=lambda spec, role: _without(spec, OF_TEACHER))
    return model


def _deciding_hooks(hooks: dict) -> dict:
    """The default hooks that differ from those of every training."""
    kept = {}
    for name, hook in hooks.items():
        if isinstance(hook, dict):
            hook = _without(hook, ("_scope_",))
        usual = {**USUAL_HOOKS, **ADDED_HOOKS}.get(name)
        if name in IDLE_HOOKS or hook == dict(type=usual) or (hook is None and name in WATCHING_HOOKS):
            continue
        kept[name] = hook
    return kept


def _without(config: dict, keys: Sequence[str]) -> dict:
    return {key: value for key, value in config.items() if key not in keys}


def _teacher(spec: dict) -> dict:
    own = {key: spec[key] for key in OF_TEACHER if key in spec}
    return {**_detector(_without(spec, OF_TEACHER)), **own}


def _detector(spec: str | dict) -> ConfigDict:
    """Read the config of a detector, once for all entries that have it."""
    spec = _here(spec)
    key = repr(spec)
    if key not in _detectors:
        _detectors[key] = detector_config(spec, "detector")
    return copy.deepcopy(_detectors[key])


def _here(spec: Any) -> Any:
    """A detector's description whose config file, if it is another checkout's that is gone, is this one's."""
    if isinstance(spec, dict):
        return {**spec, "config": _here(spec["config"])} if "config" in spec else spec
    if "::" in spec or Path(spec).is_file():
        return spec
    parts = Path(spec).parts
    own = ROOT.joinpath(*parts[parts.index("configs") :]) if "configs" in parts else Path(spec)
    return str(own) if own.is_file() else spec


def _plain(value: Any, passed_over: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item, passed_over) for key, item in value.items() if key not in passed_over}
    if isinstance(value, (list, tuple)):
        return [_plain(item, passed_over) for item in value]
    if isinstance(value, str):
        return SAME.get(value, value)
    return value if isinstance(value, (bool, int, float, type(None))) else repr(value)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
