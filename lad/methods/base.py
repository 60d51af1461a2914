"""What a distillation method is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from lad.capture import Outputs
from lad.teacher import FrozenTeacher, TeacherView

from mmdet.structures import SampleList
from mmengine.model import BaseModule
from torch import Tensor, nn


@dataclass(frozen=True)
class Step:
    """One training step as a method sees it.

    Attributes:
        inputs: Images normalised for the student, (N, 3, H, W).
        data_samples: Ground truth and metadata of the N images.
        student: The student.
        teacher: What the teacher says of these images.
        outputs: Outputs of the student's captured modules; filled while the student's own loss is computed.
        student_loss: Whether the student computes its own loss. Otherwise its dense part alone has run, and there need
            be no labels.
        notes: What methods write down while they steer, under themselves as keys; gone with the step.
    """

    inputs: Tensor
    data_samples: SampleList
    student: nn.Module
    teacher: TeacherView
    outputs: Outputs
    student_loss: bool = True
    notes: dict[DistillationMethod, Any] = field(default_factory=dict)


class DistillationMethod(BaseModule):
    """One way for a teacher to teach.

    A method names the modules it listens to, may steer the student's own loss, and returns named losses. It is a
    module so that it can own adapters (connectors): their weights are trained with the student and saved under
    ``distillation.``.
    """

    teacher_modules: tuple[str, ...] = ()
    student_modules: tuple[str, ...] = ()
    #: Whether training images are to carry their fingerprint (see :mod:`lad.teacher_cache`).
    needs_fingerprints: bool = False
    #: Whether classes of student and teacher must correspond.
    compares_classes: bool = True
    #: The student's heads that its losses train where there are no labels.
    trains: tuple[str, ...] = ()
    #: What its loss is called, where the config can say so.
    loss_name: str | None = None
    #: The student's class names, where the method finds the teacher's classes by name.
    classes: tuple[str, ...] | None = None

    def bind(self, student: nn.Module, teacher: FrozenTeacher) -> None:
        """Check that the method fits both detectors and build what depends on them; called once.

        Raises:
            UnsupportedError: it does not fit; the message names the detector, the method and what would work.
        """

    def check_without_labels(self, student: nn.Module) -> None:
        """Refuse a student that the method cannot train alone, without the student's own loss; called once.

        Raises:
            UnsupportedError: names what would not be trained.
        """

    def steer(self, step: Step) -> AbstractContextManager:
        """A context in which the student computes its own loss."""
        return nullcontext()

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Loss terms to add to the student's own, by name (``loss_...``)."""
        return {}
