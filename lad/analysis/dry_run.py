"""Report of a distillation config before training: networks, compared modules, connectors and losses."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack, redirect_stdout
from dataclasses import astuple, dataclass
from typing import Any

from lad.analysis.dry_run_views import describe_pretraining
from lad.analysis.profiling.batch import random_batch
from lad.analysis.tables import text_table
from lad.base.capture import Outputs, levels_of, split_level
from lad.base.config import detector_config
from lad.base.progress import LATE_EPOCH, Progress
from lad.base.replace import replaced
from lad.cli.config_settings import check_settings
from lad.detectors.bound import BoundMethod
from lad.detectors.configs import describes_detectors, with_networks
from lad.detectors.distillation import DistillationDetector
from lad.detectors.inspection import bound_methods
from lad.detectors.masks import predicts_masks
from lad.detectors.networks import NetworksDetector
from lad.detectors.self_supervised import SelfSupervisedPretraining
from lad.errors import ConfigError
from lad.methods.assignment.co_learning import CoLearningAssignment
from lad.methods.base import Link, SeveralTeachersMethod
from lad.networks.building import without_pretraining
from lad.networks.channels import image_channels
from lad.networks.dry_run import dry_run
from lad.networks.routes import Teacher, TeacherRoute
from lad.networks.shapes import SIDE, check_shapes
from lad.networks.snapshot import Snapshot

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import init_default_scope
from torch import Tensor

#: Stands in an empty cell.
NOTHING = "-"


@dataclass(frozen=True)
class WiringRow:
    """One comparison of one method; what does not apply is '-'.

    Attributes:
        method: The method's name.
        learner: The network or exit that it trains, where there are several.
        taught_by: Its teacher's name, where there are several.
        student, student_shape: The student's module and the shape of its output for two zero images.
        teacher, teacher_shape: Likewise the teacher's.
        connector: What stands between them.
    """

    method: str
    learner: str
    taught_by: str
    student: str
    student_shape: str
    teacher: str
    teacher_shape: str
    connector: str


@dataclass(frozen=True)
class LossRow:
    """One loss term.

    Attributes:
        phase: 'pretraining' or 'task'.
        name: As in the log.
        source: The method's name, or 'student'.
        weight: That of the config, where it has one.
        value: On two images of noise, with weights as they are now.
    """

    phase: str
    name: str
    source: str
    weight: str
    value: str


def wiring_of(model: DistillationDetector) -> list[WiringRow]:
    """Every comparison that the methods make, in the order of the config."""
    rows = []
    for name, one in model.bound.items():
        if one.route is None:
            rows.append(WiringRow(name, " + ".join(one.learners), *[NOTHING] * 6))
            continue
        learner = one.learner if len(model.learners) > 1 else NOTHING
        for label, teacher, links in _taught(model, one, one.route):
            own = _outputs(model.learners[one.learner], [link.student for link in links])
            taught = _outputs(teacher.model, [link.teacher for link in links])
            for link in links:
                rows.append(
                    WiringRow(
                        name,
                        learner,
                        label,
                        link.student or NOTHING,
                        _shape(own, link.student),
                        link.teacher or NOTHING,
                        _shape(taught, link.teacher),
                        link.connector or NOTHING,
                    )
                )
            if not links:
                rows.append(WiringRow(name, learner, label, *[NOTHING] * 5))
    return rows


def _taught(
    model: DistillationDetector, one: BoundMethod, route: TeacherRoute
) -> list[tuple[str, Teacher, list[Link]]]:
    """The name, the teacher and the pairs of modules of each teacher of a method; an ensemble is one."""
    if route.teacher is not None:
        return [(model.taught_by(one.name) or NOTHING, route.teacher, one.method.links())]
    assert isinstance(one.method, SeveralTeachersMethod)  # the others have a teacher
    return [(name, member, one.method.links_of_teacher(name)) for name, member in route.members.items()]


def _outputs(model: BaseDetector, names: Iterable[str | None]) -> Outputs:
    modules = dict.fromkeys(split_level(name)[0] for name in names if name is not None)
    return dry_run(model, modules) if modules else Outputs()


def _shape(outputs: Outputs, name: str | None) -> str:
    """'2x64x16x16', or those of the first and the last of several maps; '-' for what a dry run does not reach."""
    if name is None:
        return NOTHING
    module, level = split_level(name)
    calls = outputs.calls(module)
    shapes = ["x".join(map(str, tensor.shape)) for tensor in levels_of(calls, level)] if calls else []
    if len(shapes) > 2:
        return f"{shapes[0]} .. {shapes[-1]} ({len(shapes)})"
    return ", ".join(shapes) or NOTHING


def losses_of(model: DistillationDetector) -> list[LossRow]:
    """Every loss term of each phase, with its value on two images of noise.

    The model trains one step's forward pass for each phase: throw it away afterwards.
    """
    if model.pretraining is None:
        return _losses_of_phase(model, "task", Progress())
    return [
        *_losses_of_phase(model, "pretraining", Progress()),
        *_losses_of_phase(model, "task", model.pretraining.end),
    ]


def _losses_of_phase(model: DistillationDetector, phase: str, progress: Progress) -> list[LossRow]:
    sources: dict[str, tuple[str, Any]] = {}
    with ExitStack() as stack, torch.random.fork_rng(devices=[]):
        for one in model.bound.values():
            hook = "joint_losses" if one.method.is_joint else "losses"
            hook = "pretraining_losses" if phase == "pretraining" else hook
            stack.enter_context(replaced(one.method, hook, _recording(one, hook, sources)))
        torch.manual_seed(0)
        # TOOD reads the epoch, and assigns by its predictions in a late one.
        MessageHub.get_current_instance().update_info("epoch", LATE_EPOCH)
        losses = model.train().loss_at(progress, *noise(model))
    rows = []
    for name, value in losses.items():
        if "loss" not in name:
            continue
        source, weight = sources.get(name, (_own_source(model, name), None))
        value = sum(value) if isinstance(value, (list, tuple)) else value
        rows.append(
            LossRow(
                phase,
                name,
                source,
                NOTHING if weight is None else f"{weight:g}",
                f"{float(torch.as_tensor(value).detach().mean()):.4g}",
            )
        )
    return rows


def _own_source(model: DistillationDetector, name: str) -> str:
    """The learner whose own loss has this name."""
    labels = {learner: model.learner_label(learner) for learner in model.learners}
    known = [learner for learner, label in labels.items() if label and name.startswith(f"{label}.")]
    return max(known, key=len, default=model.deploy)


def _recording(one: BoundMethod, hook: str, sources: dict[str, tuple[str, Any]]) -> Callable[[Any], dict]:
    """A method's losses, which records their names with the method's name and the weight."""
    own = getattr(one.method, hook)

    def recorded(step: Any) -> dict:
        terms, weights = own(step), one.method.loss_weights()
        for term in terms:
            sources[f"{one.prefix}{term}"] = (one.name, weights.get(term))
        return terms

    return recorded


def noise(model: DistillationDetector) -> tuple[Tensor, SampleList]:
    """Two images of noise with an object of the first class each, normalised and padded as in a training step."""
    batch = random_batch(
        images=2,
        shape=(SIDE, SIDE),
        objects=1,
        num_classes=1,
        with_masks=predicts_masks(model),
        channels=image_channels(model),
    )
    data = model.data_preprocessor(batch, training=False)
    return data["inputs"], data["data_samples"]


def describe_networks(model: NetworksDetector) -> str:
    """The networks of a detector and their roles, as text."""
    if len(model.learners) == 1:
        parts = [f"student {type(model.student).__name__}"]
        parts += [f"{name} {type(teacher.model).__name__}" for name, teacher in model.teachers.items()]
        return ", ".join(parts)
    rows = [
        [
            name,
            _role(model, name),
            type(network).__name__,
            type(network.bbox_head).__name__ if hasattr(network, "bbox_head") else NOTHING,
            f"{sum(p.numel() for p in network.parameters()):,}",
        ]
        for name, network in {**model.learners, **{n: t.model for n, t in model.teachers.items()}}.items()
    ]
    return text_table(["network", "role", "detector", "head", "parameters"], rows, right={4}, empty=NOTHING)


def _role(model: NetworksDetector, name: str) -> str:
    if name in model.teachers:
        teacher = model.teachers[name]
        return f"snapshot of {teacher.source}" if isinstance(teacher, Snapshot) else "frozen"
    if name == model.deploy:
        return "deployed"
    return "trained" if name in model.trained_networks else "exit"


def describe(model: BaseDetector) -> str:
    """The networks of a detector, what its methods compare, and its losses, as text."""
    if isinstance(model, SelfSupervisedPretraining):
        return describe_pretraining(model)
    if not bound_methods(model):
        return f"{type(model).__name__}: nothing is distilled."
    head = ["method", "learner", "taught by", "student", "shape", "teacher", "shape", "connector"]
    parts = [describe_networks(model), text_table(head, map(astuple, wiring_of(model)), empty=NOTHING)]
    for name, one in bound_methods(model).items():
        own = one.method.pretraining
        if own is not None:
            learning = [
                *(f"{one.learner}.{module}" for module in own.student),
                *(f"{name}.{each}" for each in own.adapters),
            ]
            parts.append(f"pretraining of {name}: {own.length}; {', '.join(learning)} learn.")
        if not one.active.is_whole:
            parts.append(f"{name} is active in {one.active}.")
        elif model.student_loss and not one.acts(Progress()):
            parts.append(f"{name} has a factor of 0 in the first step, and does not run there.")
        if isinstance(one.method, CoLearningAssignment):
            switch = one.method.switch
            parts.append(f"{type(switch).__name__} chooses who teaches, per {switch.per}.")
    if model.inheritance is not None:
        parts.append(f"initialise_from_teacher: {model.inheritance}")
    try:
        losses = losses_of(model)
    except Exception as error:
        # Any method and any detector may come here; what is compared is known all the same.
        reason = " ".join(str(error).split())[:300]
        parts.append(
            f"The losses of two images of noise could not be computed: {type(error).__name__}: {reason}"
        )
    else:
        header = ["phase", "loss", "of", "weight", "on noise"]
        if model.pretraining is None:
            losses = [LossRow(NOTHING, *astuple(row)[1:]) for row in losses]
        parts.append(text_table(header, map(astuple, losses), empty=NOTHING))
    return "\n\n".join(parts)


def describe_config(cfg: Config) -> str:
    """The wiring of a training config's model, which is built for it; nothing is written and no data is looked at.

    A pretrained backbone of the student's is not fetched: its weights are random here. The teacher's checkpoint is
    read, as its check is a part of the wiring.

    Raises:
        ConfigError, CheckpointError, UnsupportedError: what a training would be refused for.
    """
    if not isinstance(cfg.get("model"), dict):
        raise ConfigError("the config has no 'model': it describes no training.")
    check_settings(cfg)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    # MMEngine lists every weight's initialisation where there is no log file.
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    model = cfg.model.to_dict()
    if describes_detectors(model):
        model = with_networks(
            model, trained=lambda spec, role: without_pretraining(detector_config(spec, role))
        )
    # What is printed while building is no part of the report.
    with redirect_stdout(sys.stderr):
        detector = MODELS.build(model)
        check_shapes(detector)
        if bound_methods(detector) or isinstance(detector, SelfSupervisedPretraining):
            detector.init_weights()
        return describe(detector)
