"""Parts of a training step, to which calls are charged."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lad.analysis.profiling.stopwatch import Stopwatch
from lad.base.replace import replaced
from lad.detectors.inspection import bound_methods, exits_of, frozen_teachers, trained_networks
from lad.heads import BatchedPAAHead
from lad.methods.assignment.co_learning import CoLearningAssignment
from lad.methods.base import DistillationMethod, JointMethod

from mmdet.models.detectors import BaseDetector
from mmdet.models.task_modules import BaseAssigner, BaseSampler
from torch import nn

PREPROCESSING = "data preprocessing"
PROPOSALS = "proposals"
ASSIGNMENT = "assignment"
OTHER = "other"
BACKWARD = "backward"
OPTIMIZER = "optimizer"

# Where MMDetection's heads decide who is positive and what it is to predict.
_DECISIONS = ("get_targets", "_get_targets_single", "paa_reassign", "get_pos_loss", "get_label_assignment")

#: An object, the name of one of its methods, and the part that a call of it is.
Call = tuple[Any, str, str]


@contextmanager
def watched(detector: BaseDetector, watch: Stopwatch) -> Iterator[None]:
    """Charge the detector's calls to parts of the training step while the block runs.

    Forward passes are those of modules that have weights; loss modules have none. What a head computes to decide who is
    positive is assignment, the teacher's pass for it is the teacher's. What is left of a loss are the losses. Only
    instances are touched, and they are as before on leaving the block.
    """
    with ExitStack() as stack:
        for network, name in networks_of(detector).items():
            forward = f"{name} forward".strip()
            for module in network.modules():
                if module is not network and any(True for _ in module.parameters()):
                    before = module.register_forward_pre_hook(lambda *_, part=forward: watch.enter(part))
                    after = module.register_forward_hook(lambda *_: watch.leave())
                    stack.callback(before.remove)
                    stack.callback(after.remove)
        for owner, name, part in _calls(detector):
            if name == "view":
                timed = _timed_view(getattr(owner, name), part, watch)
            else:
                timed = _timed(getattr(owner, name), part, watch)
            stack.enter_context(replaced(owner, name, timed))
        yield


def networks_of(detector: BaseDetector) -> dict[nn.Module, str]:
    """The trained networks and their exits, and the name of each; a plain detector has none."""
    networks: dict[str, BaseDetector] = {**trained_networks(detector), **exits_of(detector)}
    return {network: name for name, network in networks.items()}


def part_order(detector: BaseDetector) -> list[str]:
    """All parts in the order in which a reader expects them."""
    names = list(networks_of(detector).values())
    teachers = [_teacher_part(detector, name) for name in frozen_teachers(detector)]
    methods = [_method_part(name) for name in bound_methods(detector)]
    forwards = [f"{name} forward".strip() for name in names]
    losses = [f"{name} losses".strip() for name in names]
    return [
        PREPROCESSING, *teachers, *forwards, PROPOSALS, ASSIGNMENT, *losses, *methods, OTHER, BACKWARD, OPTIMIZER,
    ]  # fmt: skip


def _teacher_part(detector: BaseDetector, name: str) -> str:
    return f"teacher {name}" if len(frozen_teachers(detector)) > 1 else "teacher"


def _method_part(name: str) -> str:
    return f"loss of {name}"


def _calls(detector: BaseDetector) -> Iterator[Call]:
    for network, name in networks_of(detector).items():
        losses = f"{name} losses".strip()
        yield network, "loss", losses
        for module in network.modules():
            yield from _calls_of_module(module, losses)
    for name, teacher in frozen_teachers(detector).items():
        yield teacher, "run", _teacher_part(detector, name)
        yield teacher, "view", _teacher_part(detector, name)
    for name, one in bound_methods(detector).items():
        if type(one.method).losses is not DistillationMethod.losses:
            yield one.method, "losses", _method_part(name)
        if (
            isinstance(one.method, JointMethod)
            and type(one.method).joint_losses is not JointMethod.joint_losses
        ):
            yield one.method, "joint_losses", _method_part(name)
        if isinstance(one.method, CoLearningAssignment):
            yield one.method.co_learning, "losses", ASSIGNMENT


def _calls_of_module(module: nn.Module, losses: str) -> Iterator[Call]:
    kind = type(module)
    is_batched = isinstance(module, BatchedPAAHead)
    if hasattr(kind, "loss_by_feat"):
        # All that it does besides these losses is to decide.
        yield module, "loss_by_feat", ASSIGNMENT if is_batched else losses
    if is_batched:
        yield module, "assigned_losses", losses
        yield module, "_background_losses", losses
    if hasattr(kind, "predict_by_feat"):
        yield module, "predict_by_feat", PROPOSALS
    for name in _DECISIONS:
        if hasattr(kind, name):
            yield module, name, ASSIGNMENT
    for value in vars(module).values():
        for part in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(part, BaseAssigner):
                yield part, "assign", ASSIGNMENT
            elif isinstance(part, BaseSampler):
                yield part, "sample", ASSIGNMENT


def _timed(function: Callable[..., Any], part: str, watch: Stopwatch) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with watch.part(part):
            return function(*args, **kwargs)

    return run


def _timed_view(make_view: Callable[..., Any], part: str, watch: Stopwatch) -> Callable[..., Any]:
    """A teacher's ``view`` whose results charge what they evaluate to the teacher."""

    @functools.wraps(make_view)
    def run(*args: Any, **kwargs: Any) -> Any:
        view = make_view(*args, **kwargs)
        view.evaluate = _timed(view.evaluate, part, watch)
        return view

    return run
