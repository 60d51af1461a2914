"""Features of a RoI head: what its classifier sees of the proposals that are objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from lad.base.capture import INPUT, Outputs, capture, levels_of
from lad.methods.base import Step
from lad.methods.roi.heads import check_roi_head, score_rois, stages_of
from lad.methods.roi.stages import StageOutputs, pooled_module, recording_stages, stage_numbers, zero_of_stage
from lad.methods.specialists.classifier_features import ClassifierFeatures, FeatureSource
from lad.networks.routes import SingleTeacher

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.models.roi_heads import CascadeRoIHead
from torch import Tensor

#: What the classifier of a box head sees.
CLASSIFIER = f"fc_cls{INPUT}"


class RoIFeatures(FeatureSource):
    """Inputs of a RoI head's classifier, as the last shared layer puts them out, on the student's own proposals.

    Each teacher's RoI head computes them on its own features. Proposals of background do not count.

    Args:
        owner: The method, for messages.
        student: The learner.
        teachers: By name.

    Raises:
        UnsupportedError: a RoI head is of another kind.
    """

    def __init__(self, owner: str, student: BaseDetector, teachers: Mapping[str, SingleTeacher]) -> None:
        check_roi_head("student", student, owner)
        for name, teacher in teachers.items():
            check_roi_head("teacher", teacher.model, f"{owner} (teacher {name})")
        own = stages_of(student)
        taught = {name: stages_of(teacher.model) for name, teacher in teachers.items()}
        self.num_stages = len(own)
        self.pooled = pooled_module(student)
        self.student_modules = (self.pooled,)
        self.teacher_stages = {
            name: stage_numbers(f"{owner} (teacher {name})", len(own), len(stages))
            for name, stages in taught.items()
        }
        self.teacher_pooled = {name: pooled_module(teacher.model) for name, teacher in teachers.items()}
        self.widths = [
            (
                head.fc_cls.in_features,
                sum(
                    stages[self.teacher_stages[name][number]].fc_cls.in_features
                    for name, stages in taught.items()
                ),
            )
            for number, head in enumerate(own)
        ]

    def modules_of_teacher(self, name: str) -> tuple[str, ...]:
        """What its RoI head pools."""
        return (self.teacher_pooled[name],)

    def compared(self, name: str) -> list[tuple[str, str]]:
        """What both RoI heads pool."""
        return [(self.pooled, self.teacher_pooled[name])]

    @contextmanager
    def observe(self, step: Step) -> Iterator[tuple[list[StageOutputs], list[Outputs]]]:
        """Record the proposals of the student's own loss, and what its classifiers see, stage by stage."""
        with recording_stages(step.student) as seen, ExitStack() as stack:
            inputs = [stack.enter_context(capture(head, [CLASSIFIER])) for head in stages_of(step.student)]
            yield seen, inputs

    def features(
        self, step: Step, observed: tuple[list[StageOutputs], list[Outputs]]
    ) -> Iterator[ClassifierFeatures]:
        """Every proposal of each stage; see :meth:`FeatureSource.features`."""
        roi_head = step.student.roi_head
        is_cascade = isinstance(roi_head, CascadeRoIHead)
        seen, inputs = observed
        heads = stages_of(step.student)
        # A stage pools other proposals than the one before, and each teacher pools its own features.
        for outputs in seen:
            number, targets = outputs.number, outputs.targets
            assert targets is not None  # runs without labels are refused
            taught = [
                view.evaluate(
                    _features_of_rois,
                    self.teacher_pooled[name],
                    self.teacher_stages[name][number],
                    outputs.rois,
                ).float()
                for name, view in step.teachers.items()
            ]
            [own] = levels_of(inputs[number].calls(CLASSIFIER))
            if not len(own):
                # MMDetection has no class loss then: other processes would wait for the classifier's gradient.
                own = own + outputs.cls_score.sum()
            foreground = (targets.labels < heads[number].num_classes) & (targets.label_weights > 0)
            yield ClassifierFeatures(
                student=own,
                teachers=torch.cat(taught, dim=1),
                weight=foreground.float(),
                connector=number,
                prefix=f"s{number}." if is_cascade else "",
                factor=roi_head.stage_loss_weights[number] if is_cascade else 1.0,
            )

    def terms_without_features(
        self, step: Step, observed: tuple[list[StageOutputs], list[Outputs]]
    ) -> Mapping[tuple[str, int], Tensor]:
        """The stages that had no proposal: MMDetection leaves a cascade there."""
        return {
            (f"s{number}.", number): zero_of_stage(step.student.roi_head, number, step.outputs[self.pooled])
            for number in range(len(observed[0]), self.num_stages)
        }


def _features_of_rois(model: BaseDetector, outputs: Outputs, pooled: str, stage: int, rois: Tensor) -> Tensor:
    """(n, C) what the classifier of a stage sees of (n, 5) boxes."""
    with capture(stages_of(model)[stage], [CLASSIFIER]) as found:
        score_rois(model, outputs, pooled, stage, rois)
    [features] = levels_of(found.calls(CLASSIFIER))
    return features
