"""A trained plain detector as a command names it: config, options, checkpoint and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lad.base.config import load_config, merge_options
from lad.detectors.head_classes import head_classes
from lad.engine.plain_config import student_only
from lad.errors import CheckpointError, ConfigError, listed
from lad.networks.verified_checkpoint import class_names, load_verified

from mmdet.models.detectors import BaseDetector
from mmengine.config import Config
from mmengine.registry import init_default_scope


def read_plain_config(path: str, checkpoint: str, options: Mapping[str, Any] | None) -> Config:
    """The config of a plain detector, or of the student of a distillation, in its own scope.

    Args:
        path: The config.
        checkpoint: The detector's, which must be a file that is there.
        options: Of ``--cfg-options``.

    Raises:
        CheckpointError: there is no such checkpoint.
        ConfigError: there is no such config, or the options do not fit it.
    """
    if not Path(checkpoint).is_file():
        raise CheckpointError(f"there is no checkpoint {checkpoint!r}.")
    cfg = load_config(path)
    merge_options(cfg, options or {}, "--cfg-options")
    init_default_scope(cfg.get("default_scope", "mmdet"))
    return student_only(cfg)


def load_weights(
    model: BaseDetector, checkpoint: str, classes: Sequence[str] | None, owner: str
) -> tuple[str, ...]:
    """Load a detector's checkpoint; returns the names of its classes.

    Args:
        model: The detector.
        checkpoint: The file.
        classes: Of ``--classes``; None for those that the checkpoint names.
        owner: The command, for messages.

    Raises:
        CheckpointError: it does not fit.
        ConfigError: the classes have no names, the same ones, or not as many as the heads have.
    """
    meta = load_verified(model, checkpoint, owner=owner)
    names = tuple(classes or class_names(meta) or ())
    if not names:
        raise ConfigError("the checkpoint does not name its classes: give their names with --classes.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(
            f"{listed(map(repr, repeated))} is the name of more than one class: give each its own with --classes."
        )
    for name, known in head_classes(model):
        if known != len(names):
            raise ConfigError(
                f"{name} has {known} classes and {len(names)} names are given: name all in --classes."
            )
    return names
