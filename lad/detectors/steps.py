"""A training step as each method sees it: what is captured of the networks, views of the teachers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lad.base.capture import Outputs
from lad.base.progress import Progress
from lad.detectors.bound import BoundMethod, Candidates
from lad.methods.base import DistillationMethod, JointMethod, Step
from lad.networks.peer import PeerView
from lad.networks.routes import resolve_views
from lad.networks.view import TeacherView

from mmdet.structures import SampleList
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One batch of a step, before any method has seen it.

    Attributes:
        progress: Place of the step in the run.
        images: The images as each trained network's own config normalises them, by network, (N, C, H, W).
        data_samples: Ground truth and metadata of the N images.
        outputs: Captured outputs of each learner; filled during the step.
        student_loss: Whether learners compute their own loss.
    """

    progress: Progress
    images: Mapping[str, Tensor]
    data_samples: SampleList
    outputs: Mapping[str, Outputs]
    student_loss: bool = True


def modules_to_capture(
    methods: Mapping[str, BoundMethod],
    learners: Iterable[str],
    networks_with_exits: Iterable[str],
    is_pretraining: bool,
) -> dict[str, list[str]]:
    """Names of the modules of each learner that methods read, as their student's or as their teacher's.

    Args:
        methods: By name.
        learners: Names of trained networks and exits.
        networks_with_exits: Those whose exits take the maps of their backbones.
        is_pretraining: Whether the phase is the pretraining.
    """
    wanted: dict[str, list[str]] = {learner: [] for learner in learners}
    for network in networks_with_exits if not is_pretraining else ():
        wanted[network].append("backbone")
    for one in methods.values():
        own, _ = one.method.modules_read(is_pretraining)
        for learner in one.learners:
            wanted[learner] += one.method.modules_of(learner) if isinstance(one.method, JointMethod) else own
        for name in one.route.names if one.route is not None else ():
            if name in wanted:
                wanted[name] += one.modules_of_teacher(name, is_pretraining)
    return wanted


def steps_of(
    methods: Mapping[str, BoundMethod], candidates: Candidates, batch: Batch, is_pretraining: bool
) -> dict[str, dict[str, Step]]:
    """The step as each method sees it, by the method's name, then the learner's.

    Args:
        methods: Those that compute losses in the phase, by name.
        candidates: The networks of the detector.
        batch: What they see.
        is_pretraining: Whether the phase is the pretraining.
    """
    views = _views(methods, candidates, batch, is_pretraining)
    resolved = resolve_views((one.route for one in methods.values() if one.route is not None), views)
    observations: dict[DistillationMethod, Any] = {}
    return {
        name: {
            learner: Step(
                inputs=batch.images[learner.partition(".")[0]],
                data_samples=batch.data_samples,
                student=candidates.learners[learner],
                # Joint methods, and those that take several apart, have none, and read none.
                teacher=None if one.route is None else resolved[one.route.key],  # type: ignore[arg-type]
                outputs=batch.outputs[learner],
                student_loss=batch.student_loss,
                progress=batch.progress,
                observations=observations,
                learner=learner,
                teachers={} if one.route is None else {each: views[each] for each in one.route.names},
            )
            for learner in one.learners
        }
        for name, one in methods.items()
    }


def _views(
    methods: Mapping[str, BoundMethod], candidates: Candidates, batch: Batch, is_pretraining: bool
) -> dict[str, TeacherView]:
    """Each teacher's view of the batch; frozen teachers do not run before a method reads their outputs."""
    views: dict[str, TeacherView] = {
        name: PeerView(network, batch.outputs[name], len(batch.data_samples))
        for name, network in candidates.learners.items()
    }
    for name, teacher in candidates.frozen.items():
        read = [one.modules_of_teacher(name, is_pretraining) for one in methods.values()]
        read = [modules for modules in read if modules]
        modules = tuple(dict.fromkeys(module for modules in read for module in modules))
        views[name] = teacher.view(
            batch.images[candidates.deploy], batch.data_samples, modules, shared=len(read) > 1
        )
    return views
