"""Build the methods of a distillation config and bind each to its learner and its teachers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from lad.base.capture import INPUT, find_module
from lad.base.schedules import Schedule, build_window
from lad.detectors.bound import BoundMethod, Candidates
from lad.detectors.conflicts import check_conflicts
from lad.detectors.loss_ratio import LossRatio, build_factor
from lad.detectors.names import find_among, find_learner, free_name, of_each_exit
from lad.detectors.state import RESERVED
from lad.errors import ConfigError, UnsupportedError
from lad.methods.base import DistillationMethod, JointMethod, SeveralTeachersMethod
from lad.methods.feature.gradient_share import GradientShare
from lad.networks.ensemble import TeacherEnsemble
from lad.networks.gives import check_gives
from lad.networks.routes import check_learner_is_not_its_teacher, find_route
from lad.networks.snapshot import Snapshot

from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmengine.model import ModuleDict


def build_methods(configs: Sequence[dict], candidates: Candidates) -> dict[str, BoundMethod]:
    """Build and bind the methods of a config, in its order.

    Args:
        configs: The methods' configs, each with ``type`` and optionally ``name``, ``learner``, ``taught_by`` and
            ``ensemble`` (``among`` for a joint method), ``active`` and ``factor``.
        candidates: What they can train and learn from.

    Raises:
        ConfigError, UnsupportedError: a method does not exist, does not fit, or is in another's way.
    """
    bound: dict[str, BoundMethod] = {}
    for own in [own for config in configs for own in of_each_exit(dict(config), candidates)]:
        one = _build(own, candidates, bound)
        check_conflicts(one, bound.values())
        _bind(one, candidates)
        bound[one.name] = one
    return bound


def _build(config: dict, candidates: Candidates, others: Mapping[str, BoundMethod]) -> BoundMethod:
    """Resolve the networks that a method's config names, and build it."""
    kind = config.get("type")
    owner = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    known = MODELS.get(kind) if isinstance(kind, str) else kind
    name = config.pop("name", None)
    active = build_window(config.pop("active", None), f"{owner}: active")
    factor = build_factor(config.pop("factor", 1.0), f"{owner}: factor")
    route = None
    if isinstance(known, type) and issubclass(known, JointMethod):
        learners = find_among(config, candidates, owner)
        prefix = ""
    else:
        learners = (find_learner(config, candidates, owner),)
        route = find_route(
            candidates.frozen,
            candidates.peers,
            config.pop("taught_by", None),
            config.pop("ensemble", None),
            owner,
            apart=isinstance(known, type) and issubclass(known, SeveralTeachersMethod),
        )
        check_learner_is_not_its_teacher(learners[0], route, owner)
        labels = candidates.learner_label(learners[0]), candidates.teacher_label(route)
        prefix = "".join(f"{label}." for label in labels if label)
    name = name or free_name(owner, learners, route, others)
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
    if isinstance(method, JointMethod) and isinstance(factor, LossRatio):
        raise ConfigError(
            f"{owner}: it trains several networks, whose own losses are several: give factor a number or a schedule."
        )
    if method.pretraining is not None and not active.is_whole:
        raise ConfigError(
            f"{owner}: a method that pretrains begins with the run: leave out active, or set pretrain=None."
        )
    if factor != Schedule(1.0) and not method.has_terms:
        raise ConfigError(
            f"{owner}: it adds no loss terms that factor could multiply: leave factor out; active is the part of the "
            "run in which it does something."
        )
    if isinstance(getattr(method, "loss_weight", None), GradientShare) and factor != Schedule(1.0):
        raise ConfigError(
            f"{owner}: a loss_weight that keeps a share of the gradient makes up for factor: leave out one of them."
        )
    return BoundMethod(name, method, learners, route, prefix, active, factor)


def _bind(one: BoundMethod, candidates: Candidates) -> None:
    """Bind a method, and refuse what it cannot read."""
    method = one.method
    if isinstance(method, JointMethod):
        method.bind_together({name: candidates.learners[name] for name in one.learners})
        return
    assert one.route is not None  # only joint methods have none
    student, teacher = candidates.learners[one.learner], one.route.teacher
    for name, member in one.route.members.items():
        check_gives(type(method).__name__, method.reads, method.teacher_modules, name, member)
    _check_frozen(one, candidates)
    if isinstance(method, SeveralTeachersMethod):
        method.bind_teachers(student, one.route.members)
    else:
        assert teacher is not None  # only methods that take several apart have none
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
    if isinstance(teacher, TeacherEnsemble):
        teacher.check_modules(method.teacher_modules)
        teacher.check_weighable(method.weighable or method.teacher_modules)
        return
    for name, member in one.route.members.items():
        apart = isinstance(method, SeveralTeachersMethod)
        member.check_modules(method.modules_of_teacher(name) if apart else method.teacher_modules)


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
