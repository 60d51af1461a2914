"""Which of the student's classes each of several teachers knows, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lad.errors import ConfigError, UnsupportedError, listed, nearest
from lad.networks.peer import PeerTeacher
from lad.networks.routes import SingleTeacher
from lad.networks.snapshot import Snapshot

import torch
from torch import Tensor, nn


class KnownClasses(nn.Module):
    """The student's classes among those of M teachers.

    Args:
        classes: The C class names of the student.
        taught: Each teacher's class names, in the order of its head's channels.

    Attributes:
        classes: The C class names of the student.
        teachers: The M names of the teachers.
        index: (M, C) int64 channel of each class in each teacher's head; 0 where it does not know the class.
        known: (M, C) bool, whether a teacher knows a class.
    """

    index: Tensor
    known: Tensor

    def __init__(self, classes: Sequence[str], taught: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.teachers = tuple(taught)
        index = [[list(own).index(name) if name in own else 0 for name in classes] for own in taught.values()]
        known = [[name in own for name in classes] for own in taught.values()]
        self.register_buffer("index", torch.tensor(index), persistent=False)
        self.register_buffer("known", torch.tensor(known), persistent=False)
        for number, own in enumerate(taught.values()):
            others = [channel for channel, name in enumerate(own) if name not in classes]
            self.register_buffer(f"background_{number}", torch.tensor([*others, len(own)]), persistent=False)

    def background(self, number: int) -> Tensor:
        """Channels of a teacher's softmax that are background to the student: its own, and classes of others."""
        return self.get_buffer(f"background_{number}")


def find_known_classes(
    owner: str,
    classes: Sequence[str] | None,
    num_classes: int,
    teachers: Mapping[str, SingleTeacher],
    counts: Mapping[str, int],
    knows: Mapping[str, Sequence[str]],
) -> KnownClasses:
    """Find which of the student's classes each teacher knows.

    A teacher's class names are those that its checkpoint records, or those of the config (``knows``). A network of the
    same run has the student's.

    Args:
        owner: The method, for messages.
        classes: The student's class names, in its order. None: every teacher has the same classes in the same order.
        num_classes: How many classes the student's head has.
        teachers: By name.
        counts: How many classes the head of each teacher has.
        knows: Class names of teachers whose checkpoints record none; of others the same.

    Raises:
        UnsupportedError: numbers or names differ and ``classes`` is not given.
        ConfigError: names are missing or do not fit; a teacher knows none of the classes; a class that none knows.
    """
    for name in knows:
        if name not in teachers:
            raise ConfigError(
                f"{owner}: knows names no teacher {name!r}{nearest(name, teachers)}; there are {listed(teachers, 5)}."
            )
    taught = {name: _names(owner, name, teacher, knows.get(name)) for name, teacher in teachers.items()}
    for name, given in knows.items():
        _check_number(owner, name, given, counts[name])
    if classes is None:
        return _same_classes(owner, num_classes, taught, counts)
    classes = tuple(classes)
    if len(set(classes)) != len(classes) or len(classes) != num_classes:
        raise ConfigError(
            f"{owner}: classes must name each of the student's {num_classes} classes once, in its order; got "
            f"{listed(classes, 5)}."
        )
    found: dict[str, tuple[str, ...]] = {}
    for name, teacher in teachers.items():
        own = taught[name]
        if own is None and isinstance(teacher, (PeerTeacher, Snapshot)) and counts[name] == num_classes:
            own = classes
        if own is None:
            raise ConfigError(
                f"{owner}: classes are looked up by name, and the checkpoint of teacher {name!r} records none: add "
                f"knows=dict({name}=[...]), its {counts[name]} classes in its order."
            )
        _check_number(owner, name, own, counts[name])
        if not set(own) & set(classes):
            raise ConfigError(
                f"{owner}: teacher {name!r} knows none of the student's classes {listed(classes, 5)}; it was trained "
                f"on {listed(own, 5)}."
            )
        found[name] = own
    everything = dict.fromkeys(name for own in found.values() for name in own)
    for name in classes:
        if name not in everything:
            raise ConfigError(
                f"{owner}: no teacher knows the class {name!r}{nearest(name, everything)}; take a teacher that does, "
                "or leave the class out."
            )
    return KnownClasses(classes, found)


def _check_number(owner: str, name: str, names: Sequence[str], count: int) -> None:
    """Refuse names that are not one for each class of a teacher's head."""
    if len(set(names)) != len(names) or len(names) != count:
        raise ConfigError(
            f"{owner}: teacher {name!r} has {count} classes, and the names are {listed(names, 5)}: give "
            f"knows=dict({name}=[...]), its classes in its order."
        )


def _names(
    owner: str, name: str, teacher: SingleTeacher, given: Sequence[str] | None
) -> tuple[str, ...] | None:
    if given is None:
        return teacher.classes
    if teacher.classes is not None and tuple(given) != teacher.classes:
        raise ConfigError(
            f"{owner}: knows says that teacher {name!r} knows {listed(given, 5)}, and its checkpoint that it was "
            f"trained on {listed(teacher.classes, 5)}: leave it out of knows."
        )
    return tuple(given)


def _same_classes(
    owner: str, num_classes: int, taught: Mapping[str, tuple[str, ...] | None], counts: Mapping[str, int]
) -> KnownClasses:
    """All teachers know the student's classes in its order."""
    for name, count in counts.items():
        if count != num_classes:
            raise UnsupportedError(
                f"{owner}: the student has {num_classes} classes and teacher {name!r} {count}: name the student's "
                "(classes=[...]) to find them among the teachers'."
            )
    named = {name: own for name, own in taught.items() if own is not None}
    first = next(iter(named), None)
    for name, own in named.items():
        if own != named[first]:  # type: ignore[index]  # there is a first one
            raise UnsupportedError(
                f"{owner}: teachers {first!r} and {name!r} were trained on other classes, or on the same in another "
                "order: name the student's (classes=[...]) to find them among theirs."
            )
    names = named[first] if first is not None else tuple(str(number) for number in range(num_classes))
    if len(names) != num_classes:
        names = tuple(str(number) for number in range(num_classes))
    return KnownClasses(names, dict.fromkeys(taught, names))
