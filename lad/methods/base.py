"""What a distillation method is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

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
    """

    inputs: Tensor
    data_samples: SampleList
    student: nn.Module
    teacher: TeacherView
    outputs: Outputs


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

    def bind(self, student: nn.Module, teacher: FrozenTeacher) -> None:
        """Check that the method fits both detectors and build what depends on them; called once.

        Raises:
            UnsupportedError: it does not fit; the message names the detector, the method and what would work.
        """

    def steer(self, step: Step) -> AbstractContextManager:
        """A context in which the student computes its own loss."""
        return nullcontext()

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Loss terms to add to the student's own, by name (``loss_...``)."""
        return {}
