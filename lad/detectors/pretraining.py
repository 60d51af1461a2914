"""What the methods of a detector train before its task begins."""

from __future__ import annotations

from collections.abc import Mapping

from lad.base.capture import find_module, root_of
from lad.base.phases import Phase, Pretraining, within
from lad.errors import ConfigError, UnsupportedError
from lad.methods.base import DistillationMethod
from lad.networks.forward import DENSE_HEADS, HEADS

from torch import nn


def pretrained(methods: Mapping[str, DistillationMethod]) -> dict[str, DistillationMethod]:
    """Those of the methods that pretrain, by name."""
    return {name: method for name, method in methods.items() if method.pretraining is not None}


def find_pretraining(student: nn.Module, methods: Mapping[str, DistillationMethod]) -> Pretraining | None:
    """The methods' pretraining, which is equally long for all; None if none pretrains.

    Args:
        student: The student.
        methods: Its methods by name, bound.

    Raises:
        ConfigError: lengths differ, or a module is not there.
        UnsupportedError: a module does not run in a pretraining.
    """
    found = {name: method.pretraining for name, method in pretrained(methods).items()}
    for name, own in found.items():
        for module in own.student:
            find_module(student, module)
            if root_of(module) not in ("backbone", "neck", *DENSE_HEADS):
                raise UnsupportedError(
                    f"{name}: {module!r} cannot be pretrained: only backbone, neck, {' and '.join(DENSE_HEADS)} "
                    "run then."
                )
        for module in own.adapters:
            find_module(methods[name], module)
    if len({own.length for own in found.values()}) > 1:
        said = " and ".join(f"{name} {own.length}" for name, own in found.items())
        raise ConfigError(f"methods pretrain together, but they want {said}: set pretrain alike.")
    return next(iter(found.values()), None)


def phase_of(
    detector: nn.Module, student: nn.Module, methods: Mapping[str, DistillationMethod], is_pretraining: bool
) -> Phase:
    """Who learns and who rests in the pretraining or in the task, in a detector as it is now."""
    methods = pretrained(methods)
    adapters = [
        find_module(method, name) for method in methods.values() for name in method.pretraining.adapters
    ]
    if not is_pretraining:
        return Phase.of(detector, False, within(adapters))
    modules = [
        find_module(student, name) for method in methods.values() for name in method.pretraining.student
    ]
    heads = [getattr(student, name) for name in HEADS if hasattr(student, name)]
    return Phase.of(detector, True, set(detector.modules()) - within([*adapters, *modules]), flags=heads)
