"""Base of distillation methods, and a training step as a method sees it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from lad.base.capture import Outputs
from lad.base.phases import Pretraining
from lad.base.progress import Progress
from lad.errors import UnsupportedError
from lad.networks.gives import PREDICTIONS, Output
from lad.networks.routes import SingleTeacher, Teacher
from lad.networks.view import TeacherView

from mmdet.models.detectors import BaseDetector
from mmdet.structures import SampleList
from mmengine.model import BaseModule
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One training step as a method sees it.

    Attributes:
        inputs: Images normalised for the learner, (N, C, H, W).
        data_samples: Ground truth and metadata of the N images.
        student: The learner: the network, or the exit, that the method trains.
        teacher: The method's view of its teacher on these images; None for methods without one, or that take several
            apart.
        outputs: Outputs of the learner's captured modules; filled while its own loss is computed.
        student_loss: Whether the learner computes its own loss. Otherwise its dense part alone has run, and labels may
            be missing.
        progress: Place of the step in the run.
        observations: What methods record while they observe the learner's own loss, by method; discarded with the step.
        learner: Name of the learner, ``'a'`` or ``'a.early'``.
        teachers: Views of all its teachers on these images, by name; several methods share them.
    """

    inputs: Tensor
    data_samples: SampleList
    student: BaseDetector
    teacher: TeacherView
    outputs: Outputs
    student_loss: bool = True
    progress: Progress = field(default_factory=Progress)
    observations: dict[DistillationMethod, Any] = field(default_factory=dict)
    learner: str = ""
    teachers: Mapping[str, TeacherView] = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    """Two modules that a method compares, for the dry-run report.

    Attributes:
        student: Name of the student's module, ``'neck[1]'`` for one of its feature maps; None for nothing.
        teacher: Likewise the teacher's.
        connector: The adaptation layer between them, such as ``'1x1 convolution 64 -> 256'``.
    """

    student: str | None
    teacher: str | None
    connector: str = ""


class DistillationMethod(BaseModule):
    """Base of distillation methods: one way for a learner to learn from a teacher.

    A method names the modules it reads. It may *observe* the learner's own loss (any number of methods may), *steer* it
    (one method a head may), and return named losses. It is a module so that it can own adapters (connectors): their
    weights are trained with the learner and saved under ``distillation.``. It may declare a pretraining: see
    :class:`lad.base.phases.Pretraining`.

    In a config each method has ``learner=`` and ``taught_by=``, which the detector resolves; a method gets the two
    networks in :meth:`bind`.
    """

    teacher_modules: tuple[str, ...] = ()
    student_modules: tuple[str, ...] = ()
    #: What it reads of its teacher; see :mod:`lad.networks.gives`.
    reads: Output = PREDICTIONS
    #: Heads of the learner whose own loss or label assignment :meth:`steer` changes; one method may change each.
    steers: tuple[str, ...] = ()
    #: Whether :meth:`steer` reads the teacher's outputs, so that a teacher of the same run must be computed first.
    needs_teacher_first: bool = False
    #: Whether training images need their fingerprint (see :mod:`lad.networks.cache`).
    needs_fingerprints: bool = False
    #: Whether classes of student and teacher must correspond.
    compares_classes: bool = True
    #: The modules whose anchors and box coders must be the same for all teachers of an ensemble.
    compares_units: tuple[str, ...] = ("bbox_head",)
    #: The heads whose class logits an ensemble can weigh; by default all modules that it reads are taken for such.
    weighable: tuple[str, ...] | None = None
    #: The student's heads that its losses train where there are no labels.
    trains: tuple[str, ...] = ()
    #: Name of its loss, where the config can choose it.
    loss_name: str | None = None
    #: The student's class names, where the method finds the teacher's classes by name.
    classes: tuple[str, ...] | None = None
    #: What it trains before the task begins.
    pretraining: Pretraining | None = None
    #: Whether it can learn from several teachers as if they were one.
    ensembles: bool = True
    #: Why its teacher must be frozen from the start, no peer and no snapshot; None where any teacher will do.
    needs_frozen: str | None = None
    #: Whether it trains several networks together (``among=``) instead of one learner from a teacher.
    is_joint: bool = False
    #: Whether its learners are exits: by default every exit of the deployed network, each taught by its network.
    trains_exits: bool = False

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Check that the method fits both detectors and build what depends on them; called once.

        Args:
            student: The learner.
            teacher: Its teacher: frozen, a snapshot, a trained peer, or an ensemble.

        Raises:
            UnsupportedError: it does not fit; the message names the detector, the method and what would work.
        """

    def check_without_labels(self, student: BaseDetector) -> None:
        """Refuse a student that the method cannot train alone, without the student's own loss; called once.

        Raises:
            UnsupportedError: names what would not be trained.
        """

    def modules_read(self, is_pretraining: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The modules of the student and those of the teacher that it reads in a phase.

        Other modules' outputs are not kept, and a teacher that no method reads does not run. By default all that the
        method names; in the pretraining the teacher's only if it has one, and the student's only if some of it learns.

        Args:
            is_pretraining: Whether the phase is the pretraining; otherwise it is the task.
        """
        if not is_pretraining:
            return self.student_modules, self.teacher_modules
        if self.pretraining is None:
            return (), ()
        return self.student_modules if self.pretraining.student else (), self.teacher_modules

    def observe(self, step: Step) -> AbstractContextManager:
        """A context in which the learner computes its own loss and the method records what it needs of it."""
        return nullcontext()

    def steer(self, step: Step) -> AbstractContextManager:
        """A context in which the learner's own loss is changed: its label assignment, or the loss of a head.

        A method that overrides it names the heads in :attr:`steers`.
        """
        return nullcontext()

    def own_loss_weight(self, progress: Progress) -> float:
        """Factor of the learner's own loss at a place in the run; one method a learner may have another than 1."""
        return 1.0

    def own_class_weight(self, progress: Progress) -> float:
        """Further factor of the learner's own classification loss; of several methods the factors multiply.

        The classification loss of a two-stage detector is that of its RoI head.
        """
        return 1.0

    @property
    def has_terms(self) -> bool:
        """Whether it adds loss terms of its own to the task's."""
        return type(self).losses is not DistillationMethod.losses

    @property
    def changes_own_loss(self) -> bool:
        """Whether it can change its learners' own losses or label assignments; otherwise it adds loss terms alone."""
        hooks = ("steer", "own_loss_weight", "own_class_weight")
        return any(getattr(type(self), hook) is not getattr(DistillationMethod, hook) for hook in hooks)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Loss terms to add to the student's own, by name (``loss_...``)."""
        return {}

    def pretraining_losses(self, step: Step) -> dict[str, Tensor]:
        """Loss terms of the pretraining, by name (``loss_...``); the only ones then.

        The learner's own loss is not computed, and ``step.outputs`` is filled only where some of it learns.
        """
        return {}

    @property
    def counts_epochs(self) -> dict[str, str]:
        """Its settings that count epochs and are no schedules, and what to set where a run counts iterations."""
        return {}

    def links(self) -> list[Link]:
        """The pairs of modules it compares, once it is bound; by default its modules in their order."""
        return [Link(*pair) for pair in zip_longest(self.student_modules, self.teacher_modules)]

    def loss_weights(self) -> dict[str, float]:
        """The weights of its loss terms, as far as they are numbers of its config."""
        return {}


class SeveralTeachersMethod(DistillationMethod):
    """Base of methods that learn from several teachers, each by itself.

    In a config ``taught_by`` names one teacher or several, without ``ensemble``; by default all frozen ones. Teachers
    may know other classes than the learner, and than each other. The method gets them by name in :meth:`bind_teachers`,
    and their views of a batch in :attr:`Step.teachers`; each teacher runs once a step, however many methods read it.
    """

    ensembles = False

    @abstractmethod
    def bind_teachers(self, student: BaseDetector, teachers: Mapping[str, SingleTeacher]) -> None:
        """Check that the method fits all detectors and build what depends on them; called once.

        Args:
            student: The learner.
            teachers: Its teachers by name, in the order of the config.

        Raises:
            UnsupportedError: one does not fit; the message names it and what would work.
        """

    def modules_of_teacher(self, name: str) -> tuple[str, ...]:
        """The modules of one of its teachers that it reads; by default :attr:`teacher_modules`."""
        return self.teacher_modules

    def links_of_teacher(self, name: str) -> list[Link]:
        """The pairs of modules of the student and one teacher that it compares, for the dry-run report."""
        return [Link(*pair) for pair in zip_longest(self.student_modules, self.modules_of_teacher(name))]


class JointMethod(DistillationMethod):
    """Base of methods that train several networks together.

    In a config it has ``among=``, the names of the networks (by default all), instead of ``learner=`` and
    ``taught_by=``. Either it computes their own losses in one go (:meth:`own_losses`), or every network computes its
    own and the method adds loss terms (:meth:`joint_losses`).
    """

    is_joint = True
    compares_classes = False
    #: Whether the exits of the networks take part too.
    takes_exits: bool = False

    @abstractmethod
    def bind_together(self, networks: Mapping[str, BaseDetector]) -> None:
        """Check that the networks can be trained together; called once.

        Args:
            networks: The trained networks by name, then their exits where :attr:`takes_exits`.

        Raises:
            UnsupportedError: they cannot; the message names them and what would work.
        """

    def modules_of(self, learner: str) -> tuple[str, ...]:
        """The modules of one of its networks whose outputs it reads; by default :attr:`student_modules`."""
        return self.student_modules

    @property
    def has_terms(self) -> bool:
        """Whether it adds loss terms of its own to the networks'."""
        return type(self).joint_losses is not JointMethod.joint_losses

    @property
    def changes_own_loss(self) -> bool:
        """Whether it computes the own losses of its networks."""
        return type(self).own_losses is not JointMethod.own_losses or super().changes_own_loss

    def own_losses(self, steps: Mapping[str, Step]) -> dict[str, dict[str, Any]]:
        """The own losses that it computes in one go, and what is logged beside them, by network; by default none.

        Args:
            steps: The step as each network sees it, by network. Every network's forward pass must start from the same
                random state (:class:`lad.base.random_state.RandomState`).
        """
        return {}

    def joint_losses(self, steps: Mapping[str, Step]) -> dict[str, Tensor]:
        """Loss terms to add to the own losses, by name (``loss_...``); other names are only logged.

        Args:
            steps: The step as each network sees it, by network, after its own loss.
        """
        return {}

    def check_without_labels(self, student: BaseDetector) -> None:
        """Refused: it trains several networks."""
        raise UnsupportedError(
            f"student_loss=False: {type(self).__name__} trains networks on their own losses."
        )

    def links(self) -> list[Link]:
        """None: it compares no pairs of modules."""
        return []
