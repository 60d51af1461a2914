"""Label assignments of a detector's networks on images, to be drawn."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lad.analysis.pictures.assignment_picture import AssignmentPicture, Candidates, Panel
from lad.analysis.pictures.decisions import Decisions, Teacher, cost_of, decide, decide_jointly, seam_of
from lad.base.modes import evaluating
from lad.detectors.bound import BoundMethod
from lad.detectors.inspection import (
    bound_methods,
    exits_of,
    frozen_teachers,
    network_inputs,
    trained_networks,
)
from lad.errors import UnsupportedError
from lad.methods.assignment.co_learning import CoLearningAssignment
from lad.methods.assignment.label_assignment import LabelAssignmentDistillation

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import SampleList
from torch import Tensor


def check_drawable(model: BaseDetector) -> None:
    """Refuse detectors whose assignment cannot be drawn.

    Raises:
        UnsupportedError: a head decides from anchors alone, or by queries.
    """
    for network in trained_networks(model).values():
        seam_of(getattr(network, "bbox_head", None))


def assignment_pictures(
    model: BaseDetector, data: dict[str, Any], class_names: Sequence[str] | None = None
) -> list[AssignmentPicture]:
    """Label assignments of the networks of a detector on images.

    With :class:`CoLearningAssignment`: those of each network alone, and of all together. Otherwise of each trained
    network alone, and, of a distillation with a frozen teacher, the teacher's and (where that is a method) the
    student's with LAD. Of a plain detector: its own. Batch norm and dropout are as at
    test time. The detector and the random state are as before, and processes exchange nothing.

    Args:
        model: The detector.
        data: ``inputs`` (N images, (C, H, W)) and ``data_samples`` with ground truth, as a data loader gives them;
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
    networks = trained_networks(model)
    detectors = [*networks.values(), *exits_of(model).values()]
    with torch.no_grad(), as_at_test_time(detectors, inputs.device):
        panels, changed = _panels(model, inputs, samples)
    head = next(iter(networks.values())).bbox_head
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
def as_at_test_time(networks: Sequence[BaseDetector], device: torch.device) -> Iterator[None]:
    """Networks whose batch norm and dropout are as at test time, with heads that return what they do in training."""
    devices = [device] if device.type == "cuda" else []
    with evaluating(*networks), torch.random.fork_rng(devices=devices):
        # Some heads return other things, or decode otherwise, in eval mode.
        for network in networks:
            network.training = network.bbox_head.training = True
        yield


def _outputs(network: BaseDetector, inputs: Tensor) -> Any:
    return network.bbox_head(network.extract_feat(inputs))


def _panels(
    model: BaseDetector, inputs: Tensor, samples: SampleList
) -> tuple[list[list[Panel]], tuple[int, int] | None]:
    """The panels of each image, and the numbers of the two whose difference is marked."""
    steering = [
        one
        for one in bound_methods(model).values()
        if isinstance(one.method, (CoLearningAssignment, LabelAssignmentDistillation))
    ]
    joint = [one for one in steering if one.method.is_joint]
    if joint:
        return _co_learning(model, joint[0], inputs, samples), None
    networks = trained_networks(model)
    if not bound_methods(model):
        title = "assigned" if len(networks) == 1 else "{} alone"
        alone = _alone(model, networks, inputs, samples, title)
        return _by_image(alone), None
    if steering:
        networks = {steering[0].learner: model.learners[steering[0].learner]}
    titled = _alone(model, networks, inputs, samples, "{} alone")
    if len(networks) == 1:
        titled += _taught(model, steering[0] if steering else None, inputs, samples)
    return _by_image(titled), (0, 2) if len(titled) == 3 else None


def _alone(
    model: BaseDetector, networks: Mapping[str, BaseDetector], inputs: Tensor, samples: SampleList, title: str
) -> list[tuple[str, Decisions]]:
    return [
        (
            title.format(name),
            decide(network.bbox_head, _outputs(network, _inputs(model, name, inputs, samples)), samples),
        )
        for name, network in networks.items()
    ]


def _inputs(model: BaseDetector, learner: str, inputs: Tensor, samples: SampleList) -> Tensor:
    return network_inputs(model, learner.partition(".")[0], inputs, samples)


def _taught(
    model: BaseDetector, lad: BoundMethod | None, inputs: Tensor, samples: SampleList
) -> list[tuple[str, Decisions]]:
    """The assignments of the teacher, and of the learner on the teacher's positives where LAD is a method."""
    names = lad.route.names if lad is not None and lad.route is not None else tuple(frozen_teachers(model))
    if not names:
        return []
    teacher = frozen_teachers(model).get(names[0])
    network = model.learners[names[0]] if teacher is None else teacher.model
    head = getattr(network, "bbox_head", None)
    try:
        seam_of(head)
    except UnsupportedError:
        # A teacher of another kind decides nothing that could be drawn.
        return []
    if teacher is None:
        with as_at_test_time([network], inputs.device):
            taught = _outputs(network, _inputs(model, names[0], inputs, samples))
    else:
        taught = teacher.view(inputs, samples, ["bbox_head"]).target("bbox_head")[0]
    label = model.taught_by(lad.name) if lad is not None else ""
    titled = [(f"teacher {label}".strip(), decide(head, taught, samples))]
    if lad is not None:
        learner = model.learners[lad.learner]
        own = _outputs(learner, _inputs(model, lad.learner, inputs, samples))
        source = Teacher(lad.method.seam, head, taught)
        titled.append((f"{lad.learner} with LAD", decide(learner.bbox_head, own, samples, source)))
    return titled


def _co_learning(
    model: BaseDetector, joint: BoundMethod, inputs: Tensor, samples: SampleList
) -> list[list[Panel]]:
    networks = {name: model.learners[name] for name in joint.learners}
    heads, names = [network.bbox_head for network in networks.values()], list(networks)
    outputs = [_outputs(network, _inputs(model, name, inputs, samples)) for name, network in networks.items()]
    alone = [
        (f"{name} alone", decide(head, own, samples))
        for name, head, own in zip(names, heads, outputs, strict=True)
    ]
    method = joint.method
    together = decide_jointly(method.co_learning, heads, outputs, samples, method.switch)
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
    """An image of a data loader, (C, H, W), as (H, W, 3) uint8 RGB.

    The first three channels are BGR as MMDetection reads them, and others are not shown; of one or two channels the
    first is grey.
    """
    array = image.detach().cpu().float().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    colours = [2, 1, 0] if array.shape[-1] >= 3 else [0, 0, 0]
    return np.ascontiguousarray(array[..., colours])
