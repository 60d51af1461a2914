"""Label-assignment distillation (LAD): the teacher decides which priors are positive."""

from __future__ import annotations

from contextlib import AbstractContextManager

from lad.assignment.seams import find_seam
from lad.errors import ConfigError
from lad.methods.base import DistillationMethod, Step
from lad.teacher import FrozenTeacher

from mmdet.registry import MODELS
from torch import nn


@MODELS.register_module()
class LabelAssignmentDistillation(DistillationMethod):
    """The student learns its own losses on the positives that the teacher chooses.

    Nguyen et al., "Improving Object Detection by Label Assignment Distillation", WACV 2022, arXiv 2108.10520,
    Sec. 3.2. It adds no loss term: a dynamic assignment is a function of a network's predictions, and here it is
    evaluated on the teacher's. The candidates, top-k and mixture settings are the student's.

    Args:
        mode: ``'hard'``: the teacher's matches, with qualities (IoU targets) from the student's own boxes.
        init_cfg: As in MMEngine.
    """

    teacher_modules = ("bbox_head",)

    def __init__(self, mode: str = "hard", init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        if mode != "hard":
            raise ConfigError(f"LabelAssignmentDistillation: mode must be 'hard', got {mode!r}.")

    def bind(self, student: nn.Module, teacher: FrozenTeacher) -> None:
        """Find where the two heads decide; refuse those that cannot share a decision."""
        self.seam = find_seam(student, teacher.model)

    def steer(self, step: Step) -> AbstractContextManager:
        """The student's own loss, with the teacher's positives."""
        return self.seam.replay(
            step.student.bbox_head, step.teacher.model.bbox_head, lambda: step.teacher.outputs["bbox_head"]
        )
