"""Building a config's detector where neither its checkpoints nor the network are at hand."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

from lad.base.config import detector_config
from lad.detectors.configs import is_distillation, with_networks
from lad.detectors.inspection import frozen_teachers
from lad.networks.building import without_pretraining
from lad.networks.foreign.detection_file import FileTeacher

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from torch import nn

RANDOM = "random weights"


def build_offline(model: dict, random_teacher: bool = False) -> tuple[nn.Module, dict[str, str]]:
    """Build a detector without downloading anything.

    Pretrained backbones stay random. A teacher's checkpoint is loaded, and verified, where it is a local file that is
    there; other teachers get random weights: what they compute costs the same. Teachers are never remembered (``cache``
    is left out).

    Args:
        model: The ``model`` of a config: a plain detector or a DistillationDetector.
        random_teacher: Give teachers random weights in any case.

    Returns:
        The detector, initialised, and where the weights of each teacher come from, by its name.

    Raises:
        ConfigError, CheckpointError, UnsupportedError: what cannot be built is refused as in training.
    """
    model = ConfigDict(copy.deepcopy(dict(model)))
    origins: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        if is_distillation(model):

            def frozen(spec: dict, role: str) -> dict:
                # Without a checkpoint it is the detector's to refuse.
                if not spec.get("checkpoint"):
                    return spec
                origins[role] = spec["checkpoint"]
                if random_teacher or not Path(spec["checkpoint"]).is_file():
                    origins[role] = RANDOM
                    return with_random_weights(spec, Path(folder) / f"{role}.pth")
                return spec

            model = ConfigDict(with_networks(model, trained=_offline, frozen=frozen))
            for method in model.get("methods") or ():
                if isinstance(method, dict):  # what is none is the detector's to refuse
                    method.pop("cache", None)
        detector = MODELS.build(without_pretraining(model))
    for teacher in frozen_teachers(detector).values():
        if isinstance(teacher, FileTeacher):
            teacher.attach(teacher.detections.names)  # the images of a profile have no detections
    detector.init_weights()
    return detector, origins


def _offline(spec: str | dict, role: str) -> ConfigDict:
    return without_pretraining(detector_config(spec, role))


def with_random_weights(spec: dict, path: Path) -> ConfigDict:
    """The teacher's config with a checkpoint of random weights, which is written to ``path``."""
    own = {key: spec[key] for key in ("checkpoint", "speed") if key in spec}
    config = _offline({key: value for key, value in spec.items() if key not in (*own, "cache")}, "teacher")
    network = MODELS.build(copy.deepcopy(config))  # MMDetection writes into a DETR's config
    network.init_weights()
    torch.save(dict(state_dict=network.state_dict()), path)
    return ConfigDict(config, **dict(own, checkpoint=str(path)))
