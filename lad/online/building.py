"""Build student, teacher and session from a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lad.base.config import load_config
from lad.base.progress import last_epoch
from lad.detectors.head_classes import head_classes
from lad.engine.plain_config import student_only
from lad.engine.session import TrainingSession
from lad.errors import ConfigError
from lad.networks.building import without_pretraining
from lad.networks.verified_checkpoint import class_names, load_verified
from lad.online.detector import FrameDetector, FramePipeline, class_map
from lad.online.settings import OnlineSettings
from lad.online.trainer import Trainer

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope


@dataclass(frozen=True)
class Networks:
    """Where student and teacher come from; can be sent to another process.

    Attributes:
        cfg: The student's config, with ``optim_wrapper``.
        checkpoint: The student's.
        teacher: ``dict(config=PATH, checkpoint=PATH_OR_URL)``.
        classes: Names of the student's classes, where its checkpoint has none.
        device: Of both.
    """

    cfg: Config
    checkpoint: str
    teacher: Mapping[str, Any]
    classes: tuple[str, ...] | None
    device: str

    def __post_init__(self) -> None:
        known = {"config", "checkpoint", "classes"}
        if (
            not isinstance(self.teacher, Mapping)
            or not {"config", "checkpoint"} <= set(self.teacher) <= known
        ):
            raise ConfigError(
                "the config needs online.teacher=dict(config=PATH, checkpoint=PATH_OR_URL), with classes=[...] where "
                f"the checkpoint does not name them; got {self.teacher!r}."
            )


def build_student(networks: Networks) -> tuple[FrameDetector, tuple[str, ...]]:
    """The student in eval mode, and the names of its classes.

    Raises:
        CheckpointError: its checkpoint does not fit.
        ConfigError: its config has no test pipeline, or its classes have no names, or not as many as its heads have.
    """
    return _build(networks.cfg, networks.checkpoint, networks.classes, "student", networks.device)


def build_trainer(networks: Networks, settings: OnlineSettings) -> Trainer:
    """A student to train, its teacher and its training.

    Args:
        networks: Where they come from.
        settings: Of the distillation.

    Raises:
        CheckpointError: a checkpoint does not fit.
        ConfigError: a config lacks something, or the teacher does not know the student's classes.
    """
    own, classes = build_student(networks)
    if networks.cfg.get("optim_wrapper") is None:
        raise ConfigError("the config has no optim_wrapper: it describes no training.")
    path = str(networks.teacher["config"])
    teacher, taught = _build(
        student_only(load_config(path)),
        str(networks.teacher["checkpoint"]),
        networks.teacher.get("classes"),
        "teacher",
        networks.device,
    )
    teacher.model.requires_grad_(False)
    session = TrainingSession(
        own.model,
        networks.cfg.optim_wrapper,
        seed=settings.seed,
        norm_eval=settings.norm_eval,
        # Heads that change their assignment in the course of a training are at its end.
        epoch=last_epoch(networks.cfg.get("train_cfg")),
    )
    return Trainer(own, teacher, class_map(classes, taught), session, settings)


def _build(
    cfg: Config, checkpoint: str, classes: Any, role: str, device: str
) -> tuple[FrameDetector, tuple[str, ...]]:
    init_default_scope(cfg.get("default_scope", "mmdet"))
    pipeline = FramePipeline(cfg, role)
    model = MODELS.build(without_pretraining(cfg.model))
    meta = load_verified(model, checkpoint, owner=role)
    names = tuple(classes or class_names(meta) or ())
    option = "--classes" if role == "student" else "online.teacher.classes"
    if not names:
        raise ConfigError(f"the checkpoint of the {role} does not name its classes: give them with {option}.")
    for head, count in head_classes(model):
        if count != len(names):
            raise ConfigError(
                f"{head} of the {role} has {count} classes and {len(names)} names are given: name all in {option}."
            )
    model.dataset_meta = dict(classes=names)
    return FrameDetector(model.to(device).eval(), pipeline), names
