"""Pretraining by the methods of a detector, before its task begins."""

from __future__ import annotations

from collections.abc import Mapping

from lad.base.capture import find_module, root_of
from lad.base.phases import Phase, Pretraining, within
from lad.detectors.bound import BoundMethod
from lad.errors import ConfigError, UnsupportedError
from lad.networks.forward import DENSE_HEADS, HEADS

from mmdet.models.detectors import BaseDetector


def pretrained(methods: Mapping[str, BoundMethod]) -> dict[str, BoundMethod]:
    """Those of the methods that pretrain, by name."""
    return {name: one for name, one in methods.items() if one.method.pretraining is not None}


def find_pretraining(
    methods: Mapping[str, BoundMethod], learners: Mapping[str, BaseDetector]
) -> Pretraining | None:
    """The methods' pretraining, which is equally long for all; None if none pretrains.

    Args:
        methods: The methods by name, bound.
        learners: Trained networks and exits by name.

    Raises:
        ConfigError: lengths differ, or a module does not exist.
        UnsupportedError: a module does not run in a pretraining.
    """
    found = pretrained(methods)
    for name, one in found.items():
        own = _pretraining_of(one)
        for module in own.student:
            find_module(learners[one.learner], module)
            if root_of(module) not in ("backbone", "neck", *DENSE_HEADS):
                raise UnsupportedError(
                    f"{name}: {module!r} cannot be pretrained: only backbone, neck, {' and '.join(DENSE_HEADS)} "
                    "run then."
                )
            if "." in one.learner and root_of(module) == "backbone":
                raise UnsupportedError(
                    f"{name}: the exit {one.learner} has no backbone of its own to pretrain; let its network be the "
                    f"learner, learner={one.learner.partition('.')[0]!r}."
                )
        for module in own.adapters:
            find_module(one.method, module)
    if len({_pretraining_of(one).length for one in found.values()}) > 1:
        lengths = " and ".join(f"{name} {_pretraining_of(one).length}" for name, one in found.items())
        raise ConfigError(f"methods pretrain together, but they want {lengths}: set pretrain alike.")
    return next((_pretraining_of(one) for one in found.values()), None)


def phase_of(
    detector: BaseDetector,
    learners: Mapping[str, BaseDetector],
    methods: Mapping[str, BoundMethod],
    is_pretraining: bool,
) -> Phase:
    """The phase of the pretraining or of the task, with the parameters that a detector trains now."""
    found = pretrained(methods).values()
    adapters = [find_module(one.method, name) for one in found for name in _pretraining_of(one).adapters]
    if not is_pretraining:
        return Phase.of(detector, False, within(adapters))
    modules = [
        find_module(learners[one.learner], name) for one in found for name in _pretraining_of(one).student
    ]
    heads = [getattr(own, name) for own in learners.values() for name in HEADS if hasattr(own, name)]
    return Phase.of(detector, True, set(detector.modules()) - within([*adapters, *modules]), flags=heads)


def _pretraining_of(one: BoundMethod) -> Pretraining:
    """The pretraining of a method that has one."""
    assert one.method.pretraining is not None
    return one.method.pretraining
