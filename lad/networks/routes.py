"""Routes from teachers to methods: which networks a method learns from, as one teacher or each by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lad.errors import ConfigError, UnsupportedError, listed, nearest
from lad.networks.ensemble import Combination, EnsembleView, TeacherEnsemble
from lad.networks.frozen import FrozenTeacher
from lad.networks.peer import PeerTeacher
from lad.networks.view import TeacherView

#: One network that teaches.
SingleTeacher = FrozenTeacher | PeerTeacher
#: What a method of one teacher binds to.
Teacher = SingleTeacher | TeacherEnsemble


@dataclass(frozen=True)
class TeacherRoute:
    """The teachers of a method.

    Attributes:
        members: Each of the teachers by name.
        teacher: What a method of one teacher binds to: the only one, or their ensemble. None for a method that takes
            its teachers apart.
    """

    members: Mapping[str, SingleTeacher]
    teacher: Teacher | None

    @property
    def names(self) -> tuple[str, ...]:
        """The teachers' names."""
        return tuple(self.members)

    @property
    def label(self) -> str:
        """'a', or 'a+b' for several."""
        return "+".join(self.names)

    @property
    def key(self) -> tuple[tuple[str, ...], str | None]:
        """Routes with the same key have the same view of a batch."""
        combination = "apart" if self.teacher is None else getattr(self.teacher, "combination", None)
        return self.names, combination

    def view(self, views: Mapping[str, TeacherView]) -> TeacherView | None:
        """The view of a batch of a method of one teacher, given each teacher's; None if it takes them apart."""
        if self.teacher is None:
            return None
        if isinstance(self.teacher, TeacherEnsemble):
            return EnsembleView([views[name] for name in self.names], self.teacher.combination)
        return views[self.names[0]]


def find_route(
    frozen: Mapping[str, FrozenTeacher],
    trained: Mapping[str, PeerTeacher],
    taught_by: str | Sequence[str] | None,
    ensemble: Combination | None,
    owner: str,
    apart: bool = False,
) -> TeacherRoute:
    """The teachers that a method's config names.

    Args:
        frozen: Frozen teachers and snapshots by name.
        trained: Trained networks and exits by name, in the role of a teacher.
        taught_by: The name that the method gives, or several. None: the only frozen teacher, or all of them for a
            method that takes several apart.
        ensemble: How several become one, ``'average'`` or ``'attention'``.
        owner: The method's name, for messages.
        apart: Whether the method takes each teacher by itself, however many there are.

    Raises:
        ConfigError: there is no such teacher, or the config does not name one of several.
    """
    teachers: dict[str, SingleTeacher] = {**trained, **frozen}
    names = tuple(frozen) if taught_by is None else taught_by
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{owner}: taught_by must be the name of a teacher or a list of names, got {taught_by!r}."
        )
    names = tuple(names)
    if not teachers:
        raise ConfigError(
            f"{owner}: there is no frozen teacher; add teacher=dict(config=PATH, checkpoint=PATH_OR_URL)."
        )
    if taught_by is None and len(names) != 1 and not (apart and names):
        raise ConfigError(
            f"{owner}: name its teacher, taught_by={next(iter(names or teachers))!r}; there are "
            f"{listed(names or teachers, 5)}."
        )
    for name in names:
        if name not in teachers:
            raise ConfigError(
                f"{owner}: taught_by names no teacher {name!r}{nearest(name, teachers)}; there are "
                f"{listed(frozen or teachers, 5)}."
            )
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"{owner}: taught_by must name each teacher once, got {list(names)}.")
    members = {name: teachers[name] for name in names}
    if apart:
        if ensemble is not None:
            raise ConfigError(
                f"{owner} learns from each of its teachers by itself: leave out ensemble={ensemble!r}."
            )
        return TeacherRoute(members, None)
    if (ensemble is None) != (len(names) == 1):
        raise ConfigError(
            f"{owner}: several teachers (taught_by=['a', 'b']) go with ensemble='average' or 'attention', and one goes "
            "without."
        )
    if ensemble is None:
        return TeacherRoute(members, members[names[0]])
    return TeacherRoute(members, TeacherEnsemble(members, ensemble))


def check_learner_is_not_its_teacher(learner: str, route: TeacherRoute, owner: str) -> None:
    """Refuse a network that would learn from its own outputs of the same step.

    Raises:
        UnsupportedError: names the network and what works.
    """
    if learner in route.names:
        raise UnsupportedError(
            f"{owner}: {learner!r} cannot learn from its own outputs of the same step; name another network, an exit, "
            "or a snapshot, teachers=dict(before=dict(snapshot_of=..., at='epoch'))."
        )


def resolve_views(
    routes: Iterable[TeacherRoute], views: Mapping[str, TeacherView]
) -> dict[tuple[tuple[str, ...], str | None], TeacherView | None]:
    """The view of each route by its key; an ensemble is combined once for all methods that share it.

    Args:
        routes: Of the methods.
        views: Each teacher's view of a batch.
    """
    return {route.key: route.view(views) for route in {route.key: route for route in routes}.values()}
