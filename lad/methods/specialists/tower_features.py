"""Features of a dense head: the last map of its class tower, where an object is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from lad.base.capture import INPUT, levels_of
from lad.errors import UnsupportedError
from lad.exchange.labels import LabelReader, reading_labels
from lad.heads.dense import flatten_levels, level_sizes
from lad.methods.base import Step
from lad.methods.response.dense import check_labels_known, has_class_scores, labels_of, level_counts
from lad.methods.specialists.classifier_features import ClassifierFeatures, FeatureSource
from lad.networks.dry_run import dry_run
from lad.networks.routes import SingleTeacher

import torch
from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn

#: Names of the last classification layer of MMDetection's dense heads; a module list has a layer for each level.
CLASSIFIERS = (
    "retina_cls",
    "conv_cls",
    "atss_cls",
    "gfl_cls",
    "vfnet_cls",
    "tood_cls",
    "rtm_cls",
    "multi_level_conv_cls",
)
#: For messages.
WORKS_WITH = (
    "the heads of RetinaNet, FCOS, ATSS, PAA, GFL, VFNet, TOOD, DDOD, RTMDet and YOLOX, and the RoI heads of "
    "Faster, Mask and Cascade R-CNN"
)


class DenseFeatures(FeatureSource):
    """The last map of the class tower of a dense head, at the cells of positive priors.

    A cell counts as often as it has positive priors. Nothing is selected, so that nothing waits for a count.

    Args:
        owner: The method, for messages.
        student: The learner.
        teachers: By name.

    Raises:
        UnsupportedError: a head is of another kind, or has other grids.
    """

    def __init__(self, owner: str, student: BaseDetector, teachers: Mapping[str, SingleTeacher]) -> None:
        head: Any = getattr(student, "bbox_head", None)
        self._inputs = _classifier_inputs(f"{owner} does not fit student", student)
        check_labels_known(owner, head)
        self.student_modules = (*self._inputs, "bbox_head")
        self._teacher_inputs = {
            name: _classifier_inputs(f"{owner} does not fit teacher {name}", teacher.model)
            for name, teacher in teachers.items()
        }
        outputs = dry_run(student, self._inputs)
        own = levels_of([outputs.calls(module) for module in self._inputs])
        width = 0
        for name, teacher in teachers.items():
            inputs = self._teacher_inputs[name]
            taught = levels_of([teacher.dry_run(inputs).calls(module) for module in inputs])
            if level_sizes(taught) != level_sizes(own):
                raise UnsupportedError(
                    f"{owner}: the class towers of student and teacher {name} have maps of other sizes "
                    f"({_sizes(own)} and {_sizes(taught)} for one image): give both the same strides."
                )
            width += taught[0].shape[1]
        self.widths = [(own[0].shape[1], width)]

    def modules_of_teacher(self, name: str) -> tuple[str, ...]:
        """The inputs of its classifier."""
        return self._teacher_inputs[name]

    def compared(self, name: str) -> list[tuple[str, str]]:
        """The inputs of both classifiers; heads with a layer for each level are named once."""
        return [(self._inputs[0], self._teacher_inputs[name][0])]

    def observe(self, step: Step) -> AbstractContextManager[LabelReader]:
        """Record the labels of the student's own loss."""
        return reading_labels(step.student.bbox_head)

    def features(self, step: Step, observed: LabelReader) -> Iterator[ClassifierFeatures]:
        """Every cell of the batch; see :meth:`FeatureSource.features`."""
        head, outputs = step.student.bbox_head, step.outputs["bbox_head"]
        own = levels_of([step.outputs.calls(module) for module in self._inputs])
        taught = [
            levels_of([view.target(module) for module in self._teacher_inputs[name]])
            for name, view in step.teachers.items()
        ]
        positive = labels_of(head, outputs, observed).positive
        counts = [
            level.unflatten(1, (height * width, -1)).sum(dim=2)
            for level, (height, width) in zip(
                positive.split(level_counts(head, outputs[0]), dim=1), level_sizes(own), strict=True
            )
        ]
        yield ClassifierFeatures(
            student=_flat(own),
            teachers=torch.cat([_flat(levels) for levels in taught], dim=1),
            weight=torch.cat(counts, dim=1).flatten().float(),
        )


def _classifier_inputs(refusal: str, model: BaseDetector) -> tuple[str, ...]:
    """Names of the inputs of a dense head's last classification layer, one for all levels or one for each.

    Raises:
        UnsupportedError: its class scores are not those of one layer.
    """
    head: Any = getattr(model, "bbox_head", None)
    name = next((name for name in CLASSIFIERS if hasattr(head, name)), None)
    if head is None or name is None or not has_class_scores(head):
        kind = "no bbox_head" if head is None else type(head).__name__
        raise UnsupportedError(f"{refusal} {type(model).__name__} ({kind}); it works with {WORKS_WITH}.")
    layer = getattr(head, name)
    if isinstance(layer, nn.ModuleList):
        return tuple(f"bbox_head.{name}.{level}{INPUT}" for level in range(len(layer)))
    return (f"bbox_head.{name}{INPUT}",)


def _flat(levels: Sequence[Tensor]) -> Tensor:
    """(N cells, C) of the maps (N, C, H, W) of each level, image by image."""
    return flatten_levels(levels, levels[0].shape[1]).flatten(0, 1).float()


def _sizes(levels: Sequence[Tensor]) -> str:
    return ", ".join(f"{height}x{width}" for height, width in level_sizes(levels))
