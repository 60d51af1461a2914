"""What a distillation method is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from lad.base.capture import Outputs
from lad.base.phases import Pretraining
from lad.networks.frozen import FrozenTeacher, TeacherView

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
        teacher: What the method's teacher says of these images.
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


@dataclass(frozen=True)
class Link:
    """What a method compares, for people to read.

    Attributes:
        student: Name of the student's module, ``'neck[1]'`` for one of its feature maps; None for nothing.
        teacher: Likewise the teacher's.
        connector: What stands between them, such as ``'1x1 convolution 64 -> 256'``.
    """

    student: str | None
    teacher: str | None
    connector: str = ""


class DistillationMethod(BaseModule):
    """One way for a teacher to teach.

    A method names the modules it listens to, may steer the student's own loss, and returns named losses. It is a
    module so that it can own adapters (connectors): their weights are trained with the student and saved under
    ``distillation.``. It may declare a pretraining: see :class:`lad.base.phases.Pretraining`.
    """

    teacher_modules: tuple[str, ...] = ()
    student_modules: tuple[str, ...] = ()
    #: Whether training images are to carry their fingerprint (see :mod:`lad.networks.cache`).
    needs_fingerprints: bool = False
    #: Whether classes of student and teacher must correspond.
    compares_classes: bool = True
    #: The modules whose anchors and box coders must be the same for all teachers of an ensemble.
    compares_units: tuple[str, ...] = ("bbox_head",)
    #: The heads whose class logits an ensemble can weigh; by default all modules that it listens to are taken for such.
    weighable: tuple[str, ...] | None = None
    #: The student's heads that its losses train where there are no labels.
    trains: tuple[str, ...] = ()
    #: What its loss is called, where the config can say so.
    loss_name: str | None = None
    #: The student's class names, where the method finds the teacher's classes by name.
    classes: tuple[str, ...] | None = None
    #: What it trains before the task begins.
    pretraining: Pretraining | None = None
    #: Whether it can learn from several teachers as if they were one.
    ensembles: bool = True

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

    def listens_to(self, is_pretraining: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The modules of the student and those of the teacher that it reads in a phase.

        Nobody else's outputs are kept, and a teacher whom nobody listens to does not run. By default it is all that the
        method names; in the pretraining the teacher's only if it has one, and the student's only if some of it learns.

        Args:
            is_pretraining: Whether the phase is the pretraining; otherwise it is the task.
        """
        if not is_pretraining:
            return self.student_modules, self.teacher_modules
        if self.pretraining is None:
            return (), ()
        return self.student_modules if self.pretraining.student else (), self.teacher_modules

    def steer(self, step: Step) -> AbstractContextManager:
        """A context in which the student computes its own loss."""
        return nullcontext()

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Loss terms to add to the student's own, by name (``loss_...``)."""
        return {}

    def pretraining_losses(self, step: Step) -> dict[str, Tensor]:
        """Loss terms of the pretraining, by name (``loss_...``); the only ones then.

        There is no loss of the student's own, and ``step.outputs`` is filled only where some of the student learns.
        """
        return {}

    def links(self) -> list[Link]:
        """What is compared with what, once it is bound; by default its modules in their order."""
        return [Link(*pair) for pair in zip_longest(self.student_modules, self.teacher_modules)]

    def loss_weights(self) -> dict[str, float]:
        """The weights of its loss terms, as far as they are numbers of its config."""
        return {}
