"""What every training gets without asking."""

from __future__ import annotations

import os
from typing import Any

from lad.engine.checkpoints import LAST_CHECKPOINT, find_resumable

from mmengine.config import Config, ConfigDict

HOOKS = {"CheckpointHook": "AtomicCheckpointHook"}
LOOPS = {
    "EpochBasedTrainLoop": "ResumableEpochBasedTrainLoop",
    "IterBasedTrainLoop": "ResumableIterBasedTrainLoop",
}


def survive_interruption(cfg: Config) -> None:
    """Put this package's hooks and loops in the place of MMEngine's own, in place.

    Only plain types are exchanged (``CheckpointHook``, ``EpochBasedTrainLoop``, ``IterBasedTrainLoop``); their settings
    stay. What a config chose itself, or switched off with None, stays as it is.
    """
    if cfg.get("default_hooks") is None:
        cfg.default_hooks = {}
    hooks = cfg.default_hooks
    # MMEngine's own default where a config is silent.
    hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook", interval=1))
    hooks.setdefault("preemption", ConfigDict(type="PreemptionHook"))
    hooks.setdefault("numerical_faults", ConfigDict(type="NumericalFaultHook"))
    if {"teacher", "teachers"} & set(cfg.get("model") or {}):
        hooks.setdefault("teacher_check", ConfigDict(type="TeacherCheckHook"))
        hooks.setdefault("phases", ConfigDict(type="PhaseHook"))
    for name in ("preemption", "numerical_faults", "teacher_check", "phases"):
        # MMEngine takes None for an answer only for hooks of its own.
        if hooks.get(name, {}) is None:
            del hooks[name]
    _exchange(hooks.checkpoint, HOOKS)
    if "type" not in cfg.train_cfg:
        by_epoch = cfg.train_cfg.pop("by_epoch", True)
        cfg.train_cfg.type = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
    _exchange(cfg.train_cfg, LOOPS)
    # Whoever reads the config from the work_dir needs to find them.
    imports = cfg.get("custom_imports") or dict(imports=[])
    names = [imports["imports"]] if isinstance(imports["imports"], str) else list(imports["imports"])
    if "lad" not in names:
        cfg.custom_imports = dict(imports, imports=["lad", *names])


def _exchange(config: Any, types: dict[str, str]) -> None:
    if not isinstance(config, dict):
        return
    kind = config.get("type")
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    scope, _, name = name.rpartition(".")
    if scope in ("", "mmengine") and name in types:
        config["type"] = types[name]


def resume_request(work_dir: str, asked: str | None) -> str | None:
    """What to resume from: ``'auto'``, a checkpoint path or None.

    A run that torchrun or Slurm started again goes on from its own last checkpoint, also where nobody asked. ``'auto'``
    where there is no checkpoint yet is None: a job script can always say ``--resume``.

    Args:
        work_dir: The run's folder.
        asked: The value of ``--resume``.

    Raises:
        CheckpointError: there are checkpoints, and none that can be resumed from.
    """
    if asked == "auto":
        return "auto" if find_resumable(work_dir).path is not None else None
    if asked is None and _restarts() > 0 and os.path.isfile(os.path.join(work_dir, LAST_CHECKPOINT)):
        return "auto"
    return asked


def _restarts() -> int:
    """How often the launcher has started this run again."""
    names = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return max(int(os.environ.get(name) or 0) for name in names)
