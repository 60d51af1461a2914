"""Roles of the networks in a distillation config: trained networks, one of which is deployed, and frozen teachers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lad.base.config import detector_config
from lad.errors import ConfigError, listed, nearest

from mmengine.config import ConfigDict
from mmengine.model import ModuleDict

#: Name of the only trained network, and of the only teacher.
STUDENT, TEACHER = "student", "teacher"


@dataclass(frozen=True)
class TrainedConfigs:
    """The networks that a config trains.

    Attributes:
        configs: Model config of each by its name, in the order of the config.
        deploy: Name of the deployed one.
    """

    configs: dict[str, ConfigDict]
    deploy: str

    @property
    def others(self) -> dict[str, ConfigDict]:
        """Those that are not deployed."""
        return {name: config for name, config in self.configs.items() if name != self.deploy}


def trained_configs(
    student: str | dict | None,
    networks: Mapping[str, str | dict] | None,
    deploy: str | None,
    owner: str = "DistillationDetector",
    resolve: Callable[[Any, str], ConfigDict] = detector_config,
) -> TrainedConfigs:
    """Resolve the trained networks of a distillation's or a pretraining's config.

    Args:
        student: The only one, or
        networks: several by name; exactly one of both.
        deploy: Name of the deployed one of several; by default the first.
        owner: Type of the model, for messages.
        resolve: Makes the model config of a network from its description and its role.

    Raises:
        ConfigError: both or neither are given, or a name cannot be one.
    """
    if (student is None) == (networks is None):
        raise ConfigError(
            f"{owner} needs student=CONFIG, or several trained networks, networks=dict(a=CONFIG, "
            f"b=CONFIG); got {'neither' if student is None else 'both'}."
        )
    if student is not None:
        if deploy not in (None, STUDENT):
            raise ConfigError(f"deploy={deploy!r}: there is only the student; leave out deploy.")
        return TrainedConfigs({STUDENT: resolve(student, STUDENT)}, STUDENT)
    if not isinstance(networks, Mapping) or len(networks) < 2:
        raise ConfigError(
            "networks must name two trained networks or more, networks=dict(a=CONFIG, b=CONFIG); a single one is "
            "student=CONFIG."
        )
    for name in networks:
        check_name(name, "networks: a network")
    deploy = next(iter(networks)) if deploy is None else deploy
    if not isinstance(deploy, str) or deploy not in networks:
        raise ConfigError(
            f"deploy={deploy!r} is no network{nearest(str(deploy), networks)}; the networks are {listed(networks, 5)}."
        )
    return TrainedConfigs({name: resolve(spec, f"network {name}") for name, spec in networks.items()}, deploy)


def teacher_configs(
    teacher: dict | None, teachers: Mapping[str, dict] | None, required: bool
) -> dict[str, Any]:
    """The configs of the teachers by name; empty if there are none.

    Args:
        teacher: The only one, or
        teachers: several by name.
        required: Whether there must be one: nothing else can teach.

    Raises:
        ConfigError: both are given, or neither where one is required, or a name cannot be one.
    """
    if (teacher is not None and teachers is not None) or (required and teacher is None and teachers is None):
        raise ConfigError(
            "DistillationDetector needs a teacher=dict(config=PATH, checkpoint=PATH_OR_URL), or several, "
            f"teachers=dict(a=..., b=...); got {'neither' if teacher is None else 'both'}."
        )
    if teachers is None:
        return {} if teacher is None else {TEACHER: teacher}
    if not isinstance(teachers, Mapping) or not teachers:
        raise ConfigError("teachers must be a dict of teachers by name, teachers=dict(a=..., b=...).")
    for name in teachers:
        check_name(name, "teachers: a teacher")
    return dict(teachers)


def check_name(name: Any, owner: str) -> None:
    """Refuse a network's name that cannot stand in front of a loss or be a key of a module.

    Args:
        name: The name.
        owner: Whose it is, for the message.

    Raises:
        ConfigError: names what is allowed.
    """
    if not isinstance(name, str) or not name.isidentifier() or hasattr(ModuleDict, name) or "loss" in name:
        raise ConfigError(
            f"{owner} cannot be called {name!r}: use a plain word like 'a' or 'r101', without 'loss', and none that "
            "PyTorch's ModuleDict has for its own."
        )
