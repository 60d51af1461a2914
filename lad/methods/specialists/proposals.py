"""Queries of a RoI head: a proposal of the student, whose candidates are its classes and the background."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from lad.errors import UnsupportedError
from lad.methods.base import Step
from lad.methods.roi.heads import check_roi_head, is_sigmoid, score_rois, stages_of
from lad.methods.roi.stages import StageOutputs, match_stages, pooled_module, recording_stages, zero_of_stage
from lad.methods.specialists.classes import KnownClasses
from lad.methods.specialists.queries import Queries, QuerySource
from lad.networks.routes import SingleTeacher

import torch
import torch.nn.functional as F
from mmdet.models.detectors import BaseDetector
from mmdet.models.roi_heads import CascadeRoIHead
from torch import Tensor


class ProposalQueries(QuerySource):
    """Each proposal that the student samples; the teachers' RoI heads score it on their own features.

    A teacher's score of a class is its logit minus that of its background, and the score of the background is 0: the
    background of a specialist says nothing of a class that it does not know. Classes that the student does not have are
    background.

    Args:
        owner: The method, for messages.
        student: The learner.
        teachers: By name.
        known: Which of the student's classes each teacher knows.

    Raises:
        UnsupportedError: RoI heads do not correspond.
    """

    def __init__(
        self, owner: str, student: BaseDetector, teachers: Mapping[str, SingleTeacher], known: KnownClasses
    ) -> None:
        super().__init__()
        self.known = known
        own = stages_of(student)
        self.num_groups = len(own)
        self.features = pooled_module(student)
        self.student_modules = (self.features,)
        self.teacher_stages = {
            name: match_stages(f"{owner} (teacher {name})", own, stages_of(teacher.model))
            for name, teacher in teachers.items()
        }
        self.teacher_features = {name: pooled_module(teacher.model) for name, teacher in teachers.items()}

    def modules_of_teacher(self, name: str) -> tuple[str, ...]:
        """What its RoI head pools."""
        return (self.teacher_features[name],)

    def observe(self, step: Step) -> AbstractContextManager[list[StageOutputs]]:
        """Record the proposals of the student's own loss, stage by stage."""
        return recording_stages(step.student)

    def queries(self, step: Step, observed: Sequence[StageOutputs], gates: Tensor) -> Iterator[Queries]:
        """The proposals of each stage; see :meth:`QuerySource.queries`."""
        roi_head = step.student.roi_head
        is_cascade = isinstance(roi_head, CascadeRoIHead)
        # A stage pools other proposals than the one before.
        for outputs in observed:
            number, targets = outputs.number, outputs.targets
            assert targets is not None  # runs without labels are refused
            scores = torch.stack(self._teachers_scores(step, outputs), dim=1)
            num_proposals, _, num_candidates = scores.shape
            weight = (targets.label_weights > 0).float()
            classes = torch.arange(num_candidates, device=scores.device).expand(num_proposals, -1)
            yield Queries(
                student=outputs.cls_score,
                teachers=scores,
                # The score of the background is 0 whatever its gate.
                gates=F.pad(gates[None, :, number], (0, 1)),
                known=F.pad(self.known.known, (0, 1), value=True).expand(num_proposals, -1, -1),
                classes=classes,
                targets=(targets.labels[:, None] == classes).float(),
                # Every class of a proposal has a label. The background is none: nothing can move its score.
                labelled=F.pad(weight[:, None].expand(-1, num_candidates - 1), (0, 1)),
                weight=weight,
                prefix=f"s{number}." if is_cascade else "",
                factor=roi_head.stage_loss_weights[number] if is_cascade else 1.0,
            )

    def _teachers_scores(self, step: Step, outputs: StageOutputs) -> list[Tensor]:
        """(n, C + 1) scores of each teacher, of background last."""
        scores = []
        # Each teacher pools its own features.
        for number, (name, view) in enumerate(step.teachers.items()):
            stage = self.teacher_stages[name][outputs.number]
            logits, _ = view.evaluate(score_rois, self.teacher_features[name], stage, outputs.rois)
            logits = logits.float()
            background = logits[:, self.known.background(number)].logsumexp(dim=1, keepdim=True)
            scores.append(F.pad(logits[:, self.known.index[number]] - background, (0, 1)))
        return scores

    def terms_without_queries(self, step: Step, observed: Sequence[StageOutputs]) -> Mapping[str, Tensor]:
        """The stages that had no proposal: MMDetection leaves a cascade there."""
        return {
            f"s{number}.": zero_of_stage(step.student.roi_head, number, step.outputs[self.features])
            for number in range(len(observed), self.num_groups)
        }


def check_proposals(owner: str, student: BaseDetector, teachers: Mapping[str, SingleTeacher]) -> None:
    """Refuse a student and teachers whose RoI heads cannot be compared.

    Raises:
        UnsupportedError: names the teacher and what differs.
    """
    check_roi_head("student", student, owner)
    for name, teacher in teachers.items():
        check_roi_head("teacher", teacher.model, f"{owner} (teacher {name})")
    if is_sigmoid(stages_of(student)[0]):
        raise UnsupportedError(
            f"{owner}: the student's RoI head has a sigmoid for each class; it works with softmax RoI heads, and with "
            "dense heads whose classes are sigmoids: leave use_sigmoid out of its loss_cls."
        )
