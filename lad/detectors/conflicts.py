"""Refuse methods that are none, that are in each other's way, or that leave a head without a loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from typing import Any

from lad.detectors.bound import BoundMethod
from lad.detectors.loss_ratio import LossRatio
from lad.errors import ConfigError, UnsupportedError, nearest
from lad.losses import FeatureLoss, HintLoss
from lad.methods.base import DistillationMethod
from lad.networks.forward import DENSE_HEADS, HEADS

from mmdet.models.detectors import BaseDetector, DetectionTransformer
from mmdet.registry import MODELS
from torch import nn


def check_is_list_of_methods(methods: Any) -> None:
    """Refuse ``methods`` that are no list of dicts, each with a ``type``.

    Raises:
        ConfigError: shows what it must be like.
    """
    is_list = isinstance(methods, (list, tuple))
    if not is_list or not all(isinstance(method, dict) and method.get("type") for method in methods):
        raise ConfigError(
            f"methods must be a list like [dict(type='LabelAssignmentDistillation')], got {methods!r}."
        )


def check_is_method(kind: str | type | None) -> None:
    """Refuse other registered classes, such as losses, in the place of a method.

    What is in no registry is left to the registry's own message.

    Raises:
        ConfigError: names what the class is for, or the nearest methods.
    """
    known = MODELS.get(kind) if isinstance(kind, str) else kind
    if not isinstance(known, type) or issubclass(known, DistillationMethod):
        return
    name = known.__name__
    if made_for := getattr(known, "made_for", ""):
        raise ConfigError(f"{name} is a loss, not a method: it is made for {made_for}.")
    if issubclass(known, (FeatureLoss, HintLoss)):
        raise ConfigError(
            f"{name} is a loss, not a method: dict(type='FeatureDistillation', loss=dict(type='{name}'))."
        )
    methods = [
        key
        for key, other in MODELS.module_dict.items()
        if isinstance(other, type) and issubclass(other, DistillationMethod)
    ]
    raise ConfigError(
        f"{name} is no distillation method{nearest(name, methods)}; docs/methods.md lists them."
    )


def check_trains_without_labels(methods: Sequence[DistillationMethod], student: BaseDetector) -> None:
    """Refuse methods that leave a head of the student untrained where its own loss is not computed.

    Raises:
        ConfigError: no method adds a loss.
        UnsupportedError: a method needs labels, or a head is not trained.
    """
    if not any(method.has_terms for method in methods):
        raise ConfigError("student_loss=False leaves nothing to train on: no method adds a loss of its own.")
    for method in methods:
        method.check_without_labels(student)
    trained = {name for method in methods for name in method.trains}
    # A head that a detector does without may be None.
    heads = [name for name in HEADS if isinstance(getattr(student, name, None), nn.Module)]
    if left := [name for name in heads if name not in trained]:
        raise UnsupportedError(
            f"student_loss=False: no method trains the {' and '.join(left)} of {type(student).__name__}; "
            "without labels SoftLabelDistillation trains a PAA head, RPNDistillation with RCNNDistillation a "
            "Faster R-CNN."
        )


def check_always_active(bound: Iterable[BoundMethod]) -> None:
    """Refuse methods that rest at times where the student's own loss is not computed: a step could be without loss.

    Raises:
        ConfigError: names the method.
    """
    for one in bound:
        if not one.active.is_whole:
            raise ConfigError(
                f"{one.name}: student_loss=False leaves the student to its methods in every step: leave out active, or "
                "let factor fade."
            )
        if isinstance(one.factor, LossRatio):
            raise ConfigError(
                f"{one.name}: student_loss=False leaves no own loss that factor could follow: give it a number or a "
                "schedule."
            )


def check_conflicts(one: BoundMethod, others: Iterable[BoundMethod]) -> None:
    """Refuse a second method that changes the same head's loss in the same steps, and losses of the same name."""
    for other in others:
        if one.active.is_apart_from(other.active):
            continue
        shared = set(one.learners) & set(other.learners)
        heads = set(one.method.steers) & set(other.method.steers)
        if shared and heads:
            raise ConfigError(
                f"{one.name} and {other.name} both change the own loss of the {sorted(heads)[0]} of "
                f"{sorted(shared)[0]!r}: take one of them out of methods."
            )
        if shared and weights_own_loss(one.method) and weights_own_loss(other.method):
            raise ConfigError(
                f"{one.name} and {other.name} both weight the own loss of {sorted(shared)[0]!r}: take one of them out "
                "of methods."
            )
        name = one.method.loss_name
        if name is not None and name == other.method.loss_name and one.prefix == other.prefix:
            raise ConfigError(f"two methods call their loss {name!r}: give one another loss_name.")


def weights_own_loss(method: DistillationMethod) -> bool:
    """Whether a method multiplies its learner's own loss by a factor."""
    return type(method).own_loss_weight is not DistillationMethod.own_loss_weight


def steering_order(bound: Iterable[BoundMethod], learners: Sequence[str]) -> tuple[str, ...]:
    """The order in which learners compute their own losses: each after its network and after what steers it.

    Args:
        bound: The methods.
        learners: Names of the trained networks, then of the exits.

    Raises:
        UnsupportedError: learners steer each other.
    """
    needs: dict[str, set[str]] = {name: {name.rpartition(".")[0]} - {""} for name in learners}
    for one in bound:
        if one.route is not None and one.method.needs_teacher_first:
            needs[one.learner] |= set(one.route.names) & needs.keys()
    order: list[str] = []
    while len(order) < len(needs):
        ready = [name for name in learners if name not in order and needs[name] <= set(order)]
        if not ready:
            waiting = [name for name in learners if name not in order]
            raise UnsupportedError(
                f"{' and '.join(waiting)} wait for each other's predictions in the same step, so neither can decide "
                "its labels first: take one LabelAssignmentDistillation out of methods, or use "
                "CoLearningAssignment, which decides for several networks at once."
            )
        order.append(ready[0])
    return tuple(order)


def check_can_learn_without_labels(student: BaseDetector, learners: Sized) -> None:
    """Refuse detectors that cannot be trained without their own loss.

    Args:
        student: The deployed network.
        learners: Trained networks and exits.

    Raises:
        UnsupportedError: names the reason.
    """
    if len(learners) > 1:
        raise UnsupportedError(
            "student_loss=False: networks that are trained together, and exits, learn their own losses; it works "
            "with a single student."
        )
    dense = any(hasattr(student, name) for name in DENSE_HEADS)
    if not dense or isinstance(student, DetectionTransformer):
        raise UnsupportedError(
            f"student_loss=False needs a dense head ({', '.join(DENSE_HEADS)}), which "
            f"{type(student).__name__} has not."
        )
