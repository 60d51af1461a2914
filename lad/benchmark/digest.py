"""What of a config decides the result of a training, and a short name for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lad.config import detector_config
from lad.engine.defaults import LOOPS

from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
TRAINING = (
    "model",
    "train_dataloader",
    "train_cfg",
    "optim_wrapper",
    "param_scheduler",
    "randomness",
    "custom_hooks",
)
EVALUATION = ("model", "test_dataloader", "test_evaluator")
# How fast data are loaded and where files lie decide nothing.
PASSED_OVER = {
    "model": ("checkpoint", "teacher_ckpt", "speed"),
    "train_dataloader": ("num_workers", "persistent_workers", "pin_memory", "on_error"),
    "test_dataloader": ("num_workers", "persistent_workers", "pin_memory", "on_error"),
    "train_cfg": ("val_interval",),
    "test_evaluator": ("outfile_prefix", "backend"),
}
# tools/train.py puts its own in the place of MMDetection's, which compute the same.
SAME = {own: plain for plain, own in LOOPS.items()} | {"LoadCheckedImageFromFile": "LoadImageFromFile"}


def digests(cfg: Config, parts: Sequence[str]) -> dict[str, str]:
    """A hash of each of some parts of a config.

    The same for a config file with its options and for what ``tools/train.py`` wrote of it into the work_dir.
    Configs of student, teacher and networks are read, so a change in their files is seen; checkpoints are left out.
    """
    return {part: _hash(_part(cfg, part)) for part in parts}


def digest(parts: Mapping[str, str], needs: Mapping[str, str] | None = None) -> str:
    """One hash of those of :func:`digests` and of the trainings whose checkpoints are used."""
    return _hash([dict(parts), dict(needs or {})])


def _part(cfg: Config, part: str) -> Any:
    value = cfg.get(part)
    if part == "model" and isinstance(value, dict):
        value = _with_detectors(value)
    return _plain(value, PASSED_OVER.get(part, ()))


def _with_detectors(model: dict) -> dict:
    """A model config with the configs of its detectors in the place of their paths."""
    model = dict(model)
    for role in ("student", "teacher"):
        if model.get("type") == "DistillationDetector" and role in model:
            model[role] = _detector(model[role])
    if model.get("type") == "CoLearningDetector":
        model["networks"] = {name: _detector(spec) for name, spec in model["networks"].items()}
    return model


def _detector(spec: str | dict) -> dict:
    return _read_detector(json.dumps(_plain(_here(spec), PASSED_OVER["model"])))


@cache
def _read_detector(spec: str) -> dict:
    """A suite's entries have few detectors between them."""
    return detector_config(json.loads(spec), "detector")


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
