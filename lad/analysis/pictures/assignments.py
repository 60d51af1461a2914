"""What a detector's networks decide about images, for :mod:`lad.analysis.pictures.assignment_drawing`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lad.analysis.pictures.assignment_drawing import AssignmentPicture, Candidates, Panel
from lad.analysis.pictures.decisions import Decisions, Teacher, cost_of, decide, decide_together, seam_of
from lad.base.modes import evaluating
from lad.detectors.co_learning import CoLearningDetector
from lad.detectors.distillation import DistillationDetector
from lad.errors import UnsupportedError
from lad.methods.assignment.label_assignment import LabelAssignmentDistillation

import numpy as np
import torch
from mmdet.structures import SampleList
from torch import Tensor, nn


def check_drawable(model: nn.Module) -> None:
    """Refuse detectors whose assignment cannot be drawn.

    Raises:
        UnsupportedError: a head decides from anchors alone, or by queries.
    """
    for network in _networks(model):
        seam_of(getattr(network, "bbox_head", None))


def assignment_pictures(
    model: nn.Module, data: dict[str, Any], class_names: Sequence[str] | None = None
) -> list[AssignmentPicture]:
    """What the networks of a detector decide about images.

    Of a :class:`DistillationDetector`: the student alone, the teacher, and the student with LAD (where that is a
    method). Of a :class:`CoLearningDetector`: each network alone, and all together. Of a plain detector: itself. Batch
    norm and dropout are as at test time. The detector and the random state are as before, and processes exchange
    nothing.

    Args:
        model: The detector.
        data: ``inputs`` (N images, (3, H, W)) and ``data_samples`` with ground truth, as a data loader gives them;
            left as they are.
        class_names: Names by label; by default the labels' numbers.

    Returns:
        A picture for each image.

    Raises:
        UnsupportedError: see :func:`check_drawable`.
        FloatingPointError: predictions are not finite.
    """
    check_drawable(model)
    images = [_rgb(image) for image in data["inputs"]]
    batch = model.data_preprocessor(copy.deepcopy(data), training=False)
    inputs, samples = batch["inputs"], batch["data_samples"]
    with torch.no_grad(), as_at_test_time(_networks(model), inputs.device):
        if isinstance(model, CoLearningDetector):
            panels, changed = _co_learning(model, inputs, samples), None
        elif isinstance(model, DistillationDetector):
            panels = _distillation(model, inputs, samples)
            changed = (0, 2) if len(panels[0]) == 3 else None
        else:
            decisions = decide(model.bbox_head, _outputs(model, inputs), samples)
            panels, changed = [[_panel("assigned", objects)] for objects in decisions], None
    head = _networks(model)[0].bbox_head
    strides = tuple(int(stride[0]) for stride in head.prior_generator.strides)
    return [
        AssignmentPicture(
            name=Path(str(sample.metainfo.get("img_path", sample.metainfo.get("img_id", number)))).name,
            image=image,
            bboxes=sample.gt_instances.bboxes.cpu().numpy().astype(float).reshape(-1, 4),
            labels=_names(sample.gt_instances.labels, class_names),
            strides=strides,
            cost=cost_of(head),
            panels=tuple(of_image),
            changed=changed,
        )
        for number, (sample, image, of_image) in enumerate(zip(samples, images, panels, strict=True))
    ]


@contextmanager
def as_at_test_time(networks: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Networks whose batch norm and dropout are as at test time, with heads that return what they do in training."""
    devices = [device] if device.type == "cuda" else []
    with evaluating(*networks), torch.random.fork_rng(devices=devices):
        # Some heads return other things, or decode otherwise, in eval mode.
        for network in networks:
            network.training = network.bbox_head.training = True
        yield


def _networks(model: nn.Module) -> list[nn.Module]:
    """The networks that are trained."""
    if isinstance(model, CoLearningDetector):
        return list(model.networks.values())
    return [model.student if isinstance(model, DistillationDetector) else model]


def _outputs(network: nn.Module, inputs: Tensor) -> Any:
    return network.bbox_head(network.extract_feat(inputs))


def _distillation(model: DistillationDetector, inputs: Tensor, samples: SampleList) -> list[list[Panel]]:
    student = model.student.bbox_head
    outputs = _outputs(model.student, inputs)
    titled = [("student alone", decide(student, outputs, samples))]
    steering = [
        (name, method)
        for name, method in model.distillation.items()
        if isinstance(method, LabelAssignmentDistillation)
    ]
    teacher = model.teacher_of(steering[0][0]) if steering else next(iter(model.teachers.values()))
    head = getattr(teacher.model, "bbox_head", None)
    try:
        seam_of(head)
    except UnsupportedError:
        # A teacher of another kind decides nothing that could be drawn.
        return _by_image(titled)
    taught = teacher.look(inputs, samples, ["bbox_head"]).target("bbox_head")[0]
    label = model.taught_by(steering[0][0]) if steering else ""
    titled.append((f"teacher {label}".strip(), decide(head, taught, samples)))
    if steering:
        source = Teacher(steering[0][1].seam, head, taught)
        titled.append(("student with LAD", decide(student, outputs, samples, source)))
    return _by_image(titled)


def _co_learning(model: CoLearningDetector, inputs: Tensor, samples: SampleList) -> list[list[Panel]]:
    heads = [network.bbox_head for network in model.networks.values()]
    names = list(model.networks)
    outputs = [
        _outputs(network, model.renormalisations[name](inputs, samples))
        for name, network in model.networks.items()
    ]
    alone = [
        (f"{name} alone", decide(head, own, samples))
        for name, head, own in zip(names, heads, outputs, strict=True)
    ]
    together = decide_together(model.co_learning, heads, outputs, samples, model.switch)
    panels = _by_image(alone)
    for of_image, objects, teachers in zip(panels, together.decisions, together.teachers, strict=True):
        of_image.append(_panel("both" if len(names) == 2 else "all", objects, names, teachers))
    return panels


def _by_image(titled: Sequence[tuple[str, Decisions]]) -> list[list[Panel]]:
    return [
        [_panel(title, objects) for (title, _), objects in zip(titled, of_image, strict=True)]
        for of_image in zip(*(decisions for _, decisions in titled), strict=True)
    ]


def _panel(
    title: str,
    objects: tuple[Candidates, ...],
    names: Sequence[str] = (),
    teachers: np.ndarray | None = None,
) -> Panel:
    taught_by = None
    if teachers is not None:
        taught_by = tuple(
            tuple(names[number] if number >= 0 else None for number in of_object)
            for of_object in teachers.tolist()
        )
    return Panel(title, objects, taught_by)


def _names(labels: Tensor, class_names: Sequence[str] | None) -> tuple[str, ...]:
    numbers = labels.tolist()
    return tuple(f"class {n}" if class_names is None else class_names[n] for n in numbers)


def _rgb(image: Tensor) -> np.ndarray:
    """An image of a data loader, (3, H, W) BGR as MMDetection reads it, as (H, W, 3) uint8 RGB."""
    array = image.detach().cpu().float().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(array[..., ::-1])
