"""Build a frozen teacher from a config."""

from __future__ import annotations

from typing import Any

from lad.base.config import detector_config, kind_of
from lad.errors import ConfigError
from lad.networks.channels import check_preprocessing, repeats_of_grey
from lad.networks.foreign.feature_teacher import FeatureTeacher, fetches_weights
from lad.networks.frozen import FrozenTeacher
from lad.networks.preprocessing import Renormalisation
from lad.networks.remembered import RememberedTeacher
from lad.networks.speed import TeacherSpeed
from lad.networks.verified_checkpoint import class_names, load_verified

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmengine.config import ConfigDict


def build_teacher(spec: dict, student: BaseDetector, role: str = "teacher") -> FrozenTeacher:
    """Build the teacher of a distillation config.

    Args:
        spec: ``dict(config=PATH, checkpoint=PATH_OR_URL)`` or a model dict with ``checkpoint``; ``speed`` holds
            options of :class:`TeacherSpeed`, ``cache`` those of :class:`RememberedTeacher`, further keys override the
            config's ``model``. With
            ``type='FeatureTeacher'`` it is a model of dense features, which may fetch its own weights
            (``pretrained=True`` of its ``model``).
        student: The detector whose images the teacher will be shown, as its data preprocessor normalises them.
        role: What to call it in messages.

    Raises:
        ConfigError: no checkpoint is named, or the config is not a detector's.
        CheckpointError: the checkpoint is missing, unsafe, or of another architecture.
        UnsupportedError: the teacher takes images of another number of channels.
    """
    if not isinstance(spec, dict) or not (spec.get("checkpoint") or fetches_weights(spec)):
        more = (
            "; or pretrained=True in its model, to download what its library offers"
            if kind_of(spec) == FeatureTeacher.__name__
            else ""
        )
        raise ConfigError(
            f"{role} needs a checkpoint: {role}=dict(config=PATH, checkpoint=PATH_OR_URL){more}."
        )
    spec = dict(spec)
    checkpoint = spec.pop("checkpoint", None)
    speed = TeacherSpeed.from_config(spec.pop("speed", None))
    cache = spec.pop("cache", None)
    name = spec.get("config") or spec.get("type")
    config = detector_config(spec, role)
    # The weights come from the checkpoint alone: a random or ImageNet initialisation would be thrown away, and the
    # random state it consumed would change the student's own initialisation.
    with torch.random.fork_rng(devices=[]):
        model = MODELS.build(without_pretraining(config))
    check_preprocessing(model, role)
    repeat = repeats_of_grey(role, model, images_of=student)
    if isinstance(model, FeatureTeacher):
        meta = model.prepare(checkpoint, speed, owner=f"{role} {name}")
    else:
        meta = load_verified(model, checkpoint, owner=f"{role} {name}")
    renormalisation = Renormalisation(student.data_preprocessor, model.data_preprocessor, repeat=repeat)
    parts = (model, renormalisation, class_names(meta), config, speed)
    if cache is None:
        return FrozenTeacher(*parts)
    return RememberedTeacher(*parts, student=student, settings=cache, role=role)


def without_pretraining(config: Any) -> Any:
    """A copy of a model config without ``Pretrained`` initialisations and ``pretrained`` paths, at any depth."""
    if isinstance(config, dict):
        kept = {
            key: without_pretraining(value)
            for key, value in config.items()
            if not (key == "pretrained" and isinstance(value, str))
            and not (key == "init_cfg" and isinstance(value, dict) and value.get("type") == "Pretrained")
        }
        return ConfigDict(kept)
    if isinstance(config, (list, tuple)):
        return type(config)(without_pretraining(value) for value in config)
    return config
