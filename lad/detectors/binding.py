"""Build the methods of a distillation config and bind each to its learner and its teachers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lad.base.capture import INPUT, find_module
from lad.detectors.state import RESERVED
from lad.errors import ConfigError, UnsupportedError, listed, nearest
from lad.losses import FeatureLoss, HintLoss
from lad.methods.base import DistillationMethod, JointMethod
from lad.networks.ensemble import TeacherEnsemble
from lad.networks.forward import HEADS
from lad.networks.frozen import FrozenTeacher
from lad.networks.peer import PeerTeacher
from lad.networks.routes import TeacherRoute, check_learner_is_not_its_teacher, find_route
from lad.networks.snapshot import Snapshot

from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmengine.model import ModuleDict
from torch import nn


@dataclass(frozen=True)
class BoundMethod:
    """A method with the networks that it trains and learns from.

    Attributes:
        name: Its key under ``distillation.``.
        method: The method.
        learners: Names of what it trains: one, or all networks of a joint method, and their exits if it takes them.
        route: Its teachers; None for a joint method.
        prefix: What the names of its losses begin with in the log: the learner's name where there are several, then
            the teacher's where there are several; empty, or ending in a dot.
    """

    name: str
    method: DistillationMethod
    learners: tuple[str, ...]
    route: TeacherRoute | None
    prefix: str

    @property
    def learner(self) -> str:
        """The only learner of a method that is not joint."""
        return self.learners[0]


@dataclass(frozen=True)
class Candidates:
    """Networks that the methods of a detector can train and learn from.

    Attributes:
        learners: Trained networks, then exits, by name.
        networks: Names of the trained networks.
        deploy: Name of the deployed one.
        frozen: Frozen teachers and snapshots by name.
    """

    learners: Mapping[str, BaseDetector]
    networks: tuple[str, ...]
    deploy: str
    frozen: Mapping[str, FrozenTeacher]

    @property
    def peers(self) -> dict[str, PeerTeacher]:
        """Trained networks and exits in the role of a teacher."""
        return {name: PeerTeacher(network) for name, network in self.learners.items()}

    def learner_label(self, name: str) -> str:
        """Name of a learner in the log: empty for the only network, 'early' for an exit of it."""
        return name if len(self.networks) > 1 else name.removeprefix(self.deploy).removeprefix(".")

    def teacher_label(self, route: TeacherRoute) -> str:
        """Name of a method's teachers in the log: empty for the only frozen one."""
        return "" if len(self.frozen) == 1 and route.names == tuple(self.frozen) else route.label


def build_methods(configs: Sequence[dict], candidates: Candidates) -> dict[str, BoundMethod]:
    """Build and bind the methods of a config, in its order.

    Args:
        configs: The methods' configs, each with ``type`` and optionally ``name``, ``learner``, ``taught_by`` and
            ``ensemble`` (``among`` for a joint method).
        candidates: What they can train and learn from.

    Raises:
        ConfigError, UnsupportedError: a method does not exist, does not fit, or is in another's way.
    """
    bound: dict[str, BoundMethod] = {}
    for own in [own for config in configs for own in _of_each_exit(dict(config), candidates)]:
        one = _build(own, candidates, bound)
        _check_conflicts(one, bound.values())
        _bind(one, candidates)
        bound[one.name] = one
    return bound


def _of_each_exit(config: dict, candidates: Candidates) -> list[dict]:
    """The configs of a method that trains exits, one for each exit of its network; other methods' as they are."""
    if not trains_exits(config["type"]):
        return [config]
    network = config.get("learner", candidates.deploy)
    owner = config["type"] if isinstance(config["type"], str) else config["type"].__name__
    if network not in candidates.networks:
        # An exit; what is none is refused with the other names that do not exist.
        return [dict(config, taught_by=config.get("taught_by", str(network).partition(".")[0]))]
    exits = [name for name in candidates.learners if name.startswith(f"{network}.")]
    if not exits:
        raise ConfigError(
            f"{owner} trains exits, and {network!r} has none: add exits=dict({network}=dict(early=dict(levels=[1])))."
        )
    resolved = [dict(config, learner=name, taught_by=config.get("taught_by", network)) for name in exits]
    if len(exits) == 1:
        return resolved
    base = config.get("name") or owner
    return [dict(each, name=f"{base}_{each['learner'].replace('.', '_')}") for each in resolved]


def _build(config: dict, candidates: Candidates, others: Mapping[str, BoundMethod]) -> BoundMethod:
    """Resolve the networks that a method's config names, and build it."""
    kind = config.get("type")
    owner = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    known = MODELS.get(kind) if isinstance(kind, str) else kind
    name = config.pop("name", None)
    route = None
    if isinstance(known, type) and issubclass(known, JointMethod):
        learners = _among(config, candidates, owner)
        prefix = ""
    else:
        learners = (_learner(config, candidates, owner),)
        route = find_route(
            candidates.frozen,
            candidates.peers,
            config.pop("taught_by", None),
            config.pop("ensemble", None),
            owner,
        )
        check_learner_is_not_its_teacher(learners[0], route, owner)
        labels = candidates.learner_label(learners[0]), candidates.teacher_label(route)
        prefix = "".join(f"{label}." for label in labels if label)
    name = name or _free_name(owner, learners, route, others)
    if not isinstance(name, str) or "." in name or hasattr(ModuleDict, name):
        raise ConfigError(
            f"a method cannot be called {name!r}: use a plain word like 'hints', without a dot."
        )
    if name in others:
        raise ConfigError(f"two methods are called {name!r}: give each a name, dict(type=..., name=...).")
    if name in RESERVED:
        raise ConfigError(f"a method cannot be called {name!r}: give it another name.")
    method = MODELS.build(config)
    if isinstance(method, JointMethod) and method.takes_exits:
        learners = tuple(learner for learner in candidates.learners if learner.partition(".")[0] in learners)
    return BoundMethod(name, method, learners, route, prefix)


def _free_name(
    owner: str, learners: tuple[str, ...], route: TeacherRoute | None, others: Mapping[str, BoundMethod]
) -> str:
    """A method's name in the module tree: its type, and its networks' names where the type is taken already."""
    first = others.get(owner)
    if first is None or first.route is None or route is None:
        return owner
    if (first.learners, first.route.names) == (learners, route.names):
        return owner
    learner = () if first.learners == learners else learners
    return "_".join([owner, *learner, *route.names]).replace(".", "_")


def _learner(config: dict, candidates: Candidates, owner: str) -> str:
    learner = config.pop("learner", candidates.deploy)
    if not isinstance(learner, str) or learner not in candidates.learners:
        raise ConfigError(
            f"{owner}: learner names no trained network or exit {learner!r}"
            f"{nearest(str(learner), candidates.learners)}; there are {listed(candidates.learners, 5)}."
        )
    return learner


def _among(config: dict, candidates: Candidates, owner: str) -> tuple[str, ...]:
    if wrong := {"learner", "taught_by", "ensemble"} & set(config):
        raise ConfigError(
            f"{owner} trains several networks together: it has among=[...] and no {sorted(wrong)[0]}."
        )
    names = config.pop("among", candidates.networks)
    known = isinstance(names, (list, tuple)) and all(name in candidates.networks for name in names)
    if not known or len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(
            f"{owner} needs two trained networks: model=dict(networks=dict(a=CONFIG, b=CONFIG), deploy='a', ...), and "
            f"among names two or more of them; got {list(names) if known else names!r} of "
            f"{listed(candidates.networks, 5)}."
        )
    # In the order of the config's networks, whatever the order of `among`.
    return tuple(name for name in candidates.networks if name in names)


def _check_conflicts(one: BoundMethod, others: Iterable[BoundMethod]) -> None:
    """Refuse a second method that changes the same head's loss, and losses of the same name."""
    for other in others:
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


def trains_exits(kind: str | type) -> bool:
    """Whether a method of this type trains exits; False for what is no method."""
    known = MODELS.get(kind) if isinstance(kind, str) else kind
    return isinstance(known, type) and issubclass(known, DistillationMethod) and known.trains_exits


def weights_own_loss(method: DistillationMethod) -> bool:
    """Whether a method multiplies its learner's own loss by a factor."""
    return type(method).own_loss_weight is not DistillationMethod.own_loss_weight


def _bind(one: BoundMethod, candidates: Candidates) -> None:
    """Bind a method, and refuse what it cannot read."""
    method = one.method
    if isinstance(method, JointMethod):
        method.bind_together({name: candidates.learners[name] for name in one.learners})
        return
    assert one.route is not None  # only joint methods have none
    student, teacher = candidates.learners[one.learner], one.route.teacher
    _check_frozen(one, candidates)
    if isinstance(teacher, TeacherEnsemble):
        _check_ensemble(method, student, teacher)
    method.bind(student, teacher)
    for module in method.student_modules:
        find_module(student, module)
        if module == f"backbone{INPUT}":
            raise UnsupportedError(
                f"{type(method).__name__}: {module!r} of the student are the images, from which nothing learns: "
                "name the output of a layer, such as 'backbone.layer3'."
            )
    teacher.check_modules(method.teacher_modules)
    if isinstance(teacher, TeacherEnsemble):
        teacher.check_weighable(method.weighable or method.teacher_modules)


def _check_frozen(one: BoundMethod, candidates: Candidates) -> None:
    """Refuse a peer or a snapshot as the teacher of a method that needs a trained one from the start."""
    reason = one.method.needs_frozen
    if one.method.pretraining is not None:
        reason = "it pretrains from a teacher that must be trained before; with pretrain=None some methods need none"
    changing = [
        name
        for name in (() if one.route is None else one.route.names)
        if name not in candidates.frozen or isinstance(candidates.frozen[name], Snapshot)
    ]
    if reason is not None and changing:
        raise UnsupportedError(
            f"{type(one.method).__name__} cannot learn from {changing[0]!r}, a network of the same run: {reason}. It "
            "works with a frozen teacher, teacher=dict(config=PATH, checkpoint=PATH_OR_URL)."
        )


def _check_ensemble(method: DistillationMethod, student: BaseDetector, ensemble: TeacherEnsemble) -> None:
    if not method.ensembles:
        raise UnsupportedError(
            f"{type(method).__name__} learns from one teacher: give taught_by one name, and no ensemble."
        )
    for teacher in ensemble.members.values():
        # Each must fit by itself; what a method builds when it binds is thrown away here.
        copy.deepcopy(method).bind(student, teacher)
    ensemble.check_units(method.compares_units)


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
    if not any(type(method).losses is not DistillationMethod.losses for method in methods):
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


def weighted_losses(losses: dict[str, Any], weight: float) -> dict[str, Any]:
    """The losses of a detector times a factor; what is only logged beside them stays as it is.

    Args:
        losses: Tensors, or lists of tensors, by name; those whose name contains ``'loss'`` are losses.
        weight: The factor; losses are returned as they are for 1.
    """
    if weight == 1:
        return losses
    return {
        name: value
        if "loss" not in name
        else [each * weight for each in value]
        if isinstance(value, (list, tuple))
        else value * weight
        for name, value in losses.items()
    }


def add_terms(losses: dict[str, Any], one: BoundMethod, terms: dict[str, Any]) -> None:
    """Add a method's loss terms under their names in the log.

    Raises:
        ConfigError: another loss has a name already.
    """
    terms = {f"{one.prefix}{term}": value for term, value in terms.items()}
    if taken := sorted(set(terms) & set(losses)):
        raise ConfigError(f"method {one.name!r} returns {taken}, which another loss is already called.")
    losses.update(terms)
