"""A method with the networks that it trains and learns from, and the networks there are to choose from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lad.base.progress import Progress
from lad.base.schedules import Schedule, Window
from lad.detectors.loss_ratio import LossRatio
from lad.methods.base import DistillationMethod, SeveralTeachersMethod
from lad.networks.frozen import FrozenTeacher
from lad.networks.peer import PeerTeacher
from lad.networks.routes import TeacherRoute

from mmdet.models.detectors import BaseDetector


@dataclass(frozen=True)
class BoundMethod:
    """A method with the networks that it trains and learns from.

    Attributes:
        name: Its key under ``distillation.``.
        method: The method.
        learners: Names of what it trains: one, or all networks of a joint method, and their exits if it takes them.
        route: Its teachers; None for a joint method.
        prefix: What the names of its losses begin with in the log: the learner's name where there are several, then
            the teacher's where there are several; empty, or ending in a dot.
        active: The part of the run in which it does something.
        factor: Factor of its loss terms.
    """

    name: str
    method: DistillationMethod
    learners: tuple[str, ...]
    route: TeacherRoute | None
    prefix: str
    active: Window = field(default_factory=Window)
    factor: Schedule | LossRatio = field(default_factory=lambda: Schedule(1.0))

    def acts(self, progress: Progress) -> bool:
        """Whether it does anything in a step: it is active, and its factor is not 0 or it changes the own loss."""
        factor = self.factor.ratio if isinstance(self.factor, LossRatio) else self.factor
        return self.active.covers(progress) and (self.method.changes_own_loss or factor.at(progress) != 0)

    @property
    def learner(self) -> str:
        """The only learner of a method that is not joint."""
        return self.learners[0]

    def modules_of_teacher(self, name: str, is_pretraining: bool) -> tuple[str, ...]:
        """The modules of one teacher that the method reads in a phase; none of a network that does not teach it."""
        if self.route is None or name not in self.route.names:
            return ()
        if isinstance(self.method, SeveralTeachersMethod) and not is_pretraining:
            return self.method.modules_of_teacher(name)
        return self.method.modules_read(is_pretraining)[1]


@dataclass(frozen=True)
class Candidates:
    """Networks that the methods of a detector can train and learn from.

    Attributes:
        learners: Trained networks, then exits, by name.
        networks: Names of the trained networks.
        deploy: Name of the deployed one.
        frozen: Frozen teachers and snapshots by name.
    """

    learners: Mapping[str, BaseDetector]
    networks: tuple[str, ...]
    deploy: str
    frozen: Mapping[str, FrozenTeacher]

    @property
    def peers(self) -> dict[str, PeerTeacher]:
        """Trained networks and exits in the role of a teacher."""
        return {name: PeerTeacher(network) for name, network in self.learners.items()}

    def learner_label(self, name: str) -> str:
        """Name of a learner in the log: empty for the only network, 'early' for an exit of it."""
        return name if len(self.networks) > 1 else name.removeprefix(self.deploy).removeprefix(".")

    def teacher_label(self, route: TeacherRoute) -> str:
        """Name of a method's teachers in the log: empty for the only frozen one, and for all of them taken apart."""
        known = len(self.frozen) == 1 or route.teacher is None
        return "" if known and set(route.names) == set(self.frozen) else route.label
