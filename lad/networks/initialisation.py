"""Initialisation of a student with weights of its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lad.base.capture import find_module
from lad.errors import ConfigError, listed

import torch
from mmdet.models.detectors import BaseDetector

COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Inheritance:
    """Weights that a student can take over.

    Attributes:
        modules: The modules that the config names.
        copied: Names of the parameters and buffers that agree in name and shape.
        left: Those of the student that do not, each with the reason.
    """

    modules: tuple[str, ...]
    copied: tuple[str, ...]
    left: Mapping[str, str]

    def __str__(self) -> str:
        kept = listed([f"{name} ({why})" for name, why in self.left.items()])
        more = f"; {len(self.left)} are the student's own: {kept}" if self.left else ""
        total = len(self.copied) + len(self.left)
        return (
            f"{len(self.copied)} of {total} weights of {', '.join(self.modules)} are the teacher's "
            f"({listed(self.copied)}){more}."
        )


def find_inheritance(student: BaseDetector, teacher: BaseDetector, modules: Sequence[str]) -> Inheritance:
    """Find the weights of some modules that agree in name and shape.

    Args:
        student: The student.
        teacher: The teacher.
        modules: Names of modules that both have; ``'backbone.layer1'`` is one.

    Raises:
        ConfigError: a module is not there, or nothing agrees.
    """
    copied, left = [], {}
    for module in modules:
        own = find_module(student, module).state_dict()
        their = find_module(teacher, module).state_dict()
        for name in own:
            # A count of batches goes with the statistics that it counts.
            twin = name.removesuffix(COUNTER) + "running_mean" if name.endswith(COUNTER) else name
            if twin not in their or name not in their:
                reason = "the teacher has none"
            elif their[twin].shape != own[twin].shape:
                reason = f"{tuple(own[twin].shape)}, the teacher's {tuple(their[twin].shape)}"
            else:
                copied.append(f"{module}.{name}")
                continue
            left[f"{module}.{name}"] = reason
    found = Inheritance(tuple(modules), tuple(dict.fromkeys(copied)), left)
    if not found.copied:
        raise ConfigError(
            f"initialise_from_teacher: no weight of {', '.join(modules)} agrees in name and shape: "
            f"{listed([f'{name} is {why}' for name, why in left.items()], 2)}; name modules of which the student's "
            "are as wide as the teacher's."
        )
    return found


@torch.no_grad()
def inherit(student: BaseDetector, teacher: BaseDetector, inheritance: Inheritance) -> None:
    """Copy the weights, in place."""
    own, their = student.state_dict(), teacher.state_dict()
    for name in inheritance.copied:
        own[name].copy_(their[name])


def wanted_modules(setting: Any) -> tuple[str | None, tuple[str, ...]]:
    """The teacher's name (None: the only one) and the modules that ``initialise_from_teacher`` names.

    Args:
        setting: ``['neck']``, ``'neck'`` or ``dict(teacher='a', modules=['neck'])``.

    Raises:
        ConfigError: it is none of these.
    """
    teacher, modules = None, setting
    if isinstance(setting, Mapping):
        teacher, modules = setting.get("teacher"), setting.get("modules")
        if not set(setting) <= {"teacher", "modules"}:
            modules = None
    modules = [modules] if isinstance(modules, str) else modules
    if not isinstance(modules, Sequence) or not modules or not all(isinstance(name, str) for name in modules):
        raise ConfigError(
            "initialise_from_teacher must be like ['neck', 'bbox_head'] or dict(teacher='a', modules=['neck']), got "
            f"{setting!r}."
        )
    return teacher, tuple(modules)
