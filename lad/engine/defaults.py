"""Default hooks and loops of every training."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from lad.base.config import kind_of
from lad.engine.checkpoints import LAST_CHECKPOINT, find_resumable
from lad.networks.foreign.detection_file import DetectionFile

from mmengine.config import Config, ConfigDict

HOOKS = {"CheckpointHook": "AtomicCheckpointHook"}
#: Names of the default hooks that are added to a config.
ADDED_HOOKS = (
    "checkpoint_fit",
    "resume",
    "preemption",
    "numerical_faults",
    "teacher_check",
    "phases",
    "exits",
    "detection_files",
)
LOOPS = {
    "EpochBasedTrainLoop": "ResumableEpochBasedTrainLoop",
    "IterBasedTrainLoop": "ResumableIterBasedTrainLoop",
}


def survive_interruption(cfg: Config) -> None:
    """Replace MMEngine's checkpoint hook and training loops by resumable ones and add the default hooks, in place.

    Only MMEngine's own types are replaced (``CheckpointHook``, ``EpochBasedTrainLoop``, ``IterBasedTrainLoop``); their
    settings are kept. Hooks that a config sets itself or disables with None are left as they are.
    """
    if cfg.get("default_hooks") is None:
        cfg.default_hooks = {}
    hooks = cfg.default_hooks
    # MMEngine's default.
    hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook", interval=1))
    verify_checkpoints(cfg)
    hooks.setdefault("resume", ConfigDict(type="ResumeHook"))
    hooks.setdefault("preemption", ConfigDict(type="PreemptionHook"))
    hooks.setdefault("numerical_faults", ConfigDict(type="NumericalFaultHook"))
    if {"teacher", "teachers"} & set(cfg.get("model") or {}):
        hooks.setdefault("teacher_check", ConfigDict(type="TeacherCheckHook"))
        hooks.setdefault("phases", ConfigDict(type="PhaseHook"))
        if any(kind_of(spec) == DetectionFile.__name__ for spec in _teachers(cfg.model)):
            hooks.setdefault("detection_files", ConfigDict(type="DetectionFileHook"))
    if (cfg.get("model") or {}).get("keep_exits"):
        hooks.setdefault("exits", ConfigDict(type="SaveExitsHook"))
    _drop_disabled(hooks, ADDED_HOOKS)
    _replace_type(hooks.checkpoint, HOOKS)
    if "type" not in cfg.train_cfg:
        by_epoch = cfg.train_cfg.pop("by_epoch", True)
        cfg.train_cfg.type = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
    _replace_type(cfg.train_cfg, LOOPS)
    # The config in the work_dir must be readable by itself.
    imports = cfg.get("custom_imports") or dict(imports=[])
    names = [imports["imports"]] if isinstance(imports["imports"], str) else list(imports["imports"])
    if "lad" not in names:
        cfg.custom_imports = dict(imports, imports=["lad", *names])


def _teachers(model: dict) -> list[Any]:
    """The configs of a distillation's teachers, as far as they are where they belong."""
    several = model.get("teachers")
    return [model.get("teacher"), *(several.values() if isinstance(several, dict) else ())]


def verify_checkpoints(cfg: Config) -> None:
    """Add the hook that refuses a checkpoint that does not fit the detector, in place; for training and testing."""
    if cfg.get("default_hooks") is None:
        cfg.default_hooks = {}
    cfg.default_hooks.setdefault("checkpoint_fit", ConfigDict(type="CheckpointFitHook"))
    _drop_disabled(cfg.default_hooks, ["checkpoint_fit"])


def _drop_disabled(hooks: ConfigDict, names: Iterable[str]) -> None:
    """Remove hooks of this package that a config disables; MMEngine accepts None only for its own."""
    for name in names:
        if hooks.get(name, {}) is None:
            del hooks[name]


def _replace_type(config: Any, types: dict[str, str]) -> None:
    if not isinstance(config, dict):
        return
    kind = config.get("type")
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    scope, _, name = name.rpartition(".")
    if scope in ("", "mmengine") and name in types:
        config["type"] = types[name]


def resume_request(work_dir: str, requested: str | None) -> str | None:
    """Checkpoint to resume from: ``'auto'``, a path or None.

    A run that torchrun or Slurm restarted resumes from its own last checkpoint, also without ``--resume``, and where
    that names the checkpoint that the run began with. ``'auto'`` becomes None if there is no checkpoint yet, so a job
    script can always pass ``--resume``.

    Args:
        work_dir: The run's folder.
        requested: The value of ``--resume``.

    Raises:
        CheckpointError: there are checkpoints, and none that can be resumed from.
    """
    if requested == "auto":
        return "auto" if find_resumable(work_dir).path is not None else None
    if _restarts() > 0 and os.path.isfile(os.path.join(work_dir, LAST_CHECKPOINT)):
        return "auto"
    return requested


def _restarts() -> int:
    """Number of times that the launcher has restarted this run."""
    names = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return max(int(os.environ.get(name) or 0) for name in names)
