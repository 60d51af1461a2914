"""Which teachers there are, and who listens to whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lad.errors import ConfigError, listed, nearest
from lad.networks.building import build_teacher
from lad.networks.ensemble import EnsembleView, TeacherEnsemble
from lad.networks.frozen import FrozenTeacher, TeacherView

from mmdet.structures import SampleList
from torch import Tensor, nn

#: What the only teacher is called.
ONLY = "teacher"


def build_teachers(
    teacher: dict | None, teachers: Mapping[str, dict] | None, student_preprocessor: nn.Module
) -> dict[str, FrozenTeacher]:
    """Build the teachers of a distillation config, by name.

    Args:
        teacher: The only one, or
        teachers: several by name; exactly one of both.
        student_preprocessor: What normalises the images that they will be shown.

    Raises:
        ConfigError: both or neither are given, or a name cannot be one.
        CheckpointError: see :func:`lad.networks.building.build_teacher`.
    """
    if (teacher is None) == (teachers is None):
        raise ConfigError(
            "DistillationDetector needs a teacher=dict(config=PATH, checkpoint=PATH_OR_URL), or several, "
            f"teachers=dict(a=..., b=...); got {'neither' if teacher is None else 'both'}."
        )
    if teachers is None:
        return {ONLY: build_teacher(teacher, student_preprocessor)}
    if not isinstance(teachers, Mapping) or not teachers:
        raise ConfigError("teachers must be a dict of teachers by name, teachers=dict(a=..., b=...).")
    for name in teachers:
        if not isinstance(name, str) or not name.isidentifier() or "loss" in name:
            raise ConfigError(
                f"teachers: a teacher cannot be called {name!r}: use a plain word like 'a' or 'r101', without 'loss'."
            )
    return {name: build_teacher(spec, student_preprocessor, name) for name, spec in teachers.items()}


@dataclass(frozen=True)
class Listening:
    """Whom a method listens to.

    Attributes:
        names: The teachers' names.
        teacher: What the method binds to.
    """

    names: tuple[str, ...]
    teacher: FrozenTeacher | TeacherEnsemble

    @property
    def label(self) -> str:
        """'a', or 'a+b' for an ensemble."""
        return "+".join(self.names)

    @property
    def key(self) -> tuple[tuple[str, ...], str | None]:
        """What it hears: who has the same key hears the same."""
        return self.names, getattr(self.teacher, "combination", None)

    def view(self, views: Mapping[str, TeacherView]) -> TeacherView:
        """What it hears, given each teacher's view of a batch."""
        if isinstance(self.teacher, TeacherEnsemble):
            return EnsembleView([views[name] for name in self.names], self.teacher.combination)
        return views[self.names[0]]


def choose(
    teachers: Mapping[str, FrozenTeacher],
    taught_by: str | Sequence[str] | None,
    ensemble: str | None,
    owner: str,
) -> Listening:
    """Whom a method listens to.

    Args:
        teachers: All by name.
        taught_by: The name that the method gives, or several. None: the only one.
        ensemble: How several become one, ``'average'`` or ``'attention'``.
        owner: The method's name, for messages.

    Raises:
        ConfigError: there is no such teacher, or it is not said which is meant.
    """
    names = tuple(teachers) if taught_by is None else taught_by
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{owner}: taught_by must be the name of a teacher or a list of names, got {taught_by!r}."
        )
    names = tuple(names)
    if taught_by is None and len(names) > 1:
        raise ConfigError(
            f"{owner}: say which teacher it listens to, taught_by={names[0]!r}; there are {listed(names, 5)}."
        )
    for name in names:
        if name not in teachers:
            raise ConfigError(
                f"{owner}: taught_by names no teacher {name!r}{nearest(name, teachers)}; there are "
                f"{listed(teachers, 5)}."
            )
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"{owner}: taught_by must name each teacher once, got {list(names)}.")
    if (ensemble is None) != (len(names) == 1):
        raise ConfigError(
            f"{owner}: several teachers (taught_by=['a', 'b']) go with ensemble='average' or 'attention', and one goes "
            "without."
        )
    if ensemble is None:
        return Listening(names, teachers[names[0]])
    return Listening(names, TeacherEnsemble({name: teachers[name] for name in names}, ensemble))


def hear(listeners: Mapping[str, Listening], views: Mapping[str, TeacherView]) -> dict[str, TeacherView]:
    """What each listener hears; an ensemble is combined once for all who listen to it.

    Args:
        listeners: By name.
        views: Each teacher's view of a batch; see :func:`look`.
    """
    distinct = {listening.key: listening for listening in listeners.values()}
    heard = {key: listening.view(views) for key, listening in distinct.items()}
    return {name: heard[listening.key] for name, listening in listeners.items()}


def look(
    teachers: Mapping[str, FrozenTeacher],
    inputs: Tensor,
    data_samples: SampleList,
    listeners: Sequence[tuple[Listening, Sequence[str]]],
) -> dict[str, TeacherView]:
    """Each teacher's view of one batch; nobody runs yet.

    Args:
        teachers: All by name.
        inputs: Images normalised for the student.
        data_samples: Their metadata.
        listeners: Of each method, whom it listens to and the modules that it wants to hear.
    """
    views = {}
    for name, teacher in teachers.items():
        wanted = [modules for listening, modules in listeners if name in listening.names and modules]
        every = tuple(dict.fromkeys(module for modules in wanted for module in modules))
        views[name] = teacher.look(inputs, data_samples, every, shared=len(wanted) > 1)
    return views
