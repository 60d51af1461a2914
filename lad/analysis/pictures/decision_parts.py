"""What the modules that compute label assignments for drawing share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lad.analysis.pictures.assignment_picture import Candidates
from lad.exchange.seams import Seam
from lad.exchange.switching import Membership, RoleSwitch, Separation, Switch

import numpy as np
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from torch import Tensor

#: For each image of a batch its objects' candidates.
Decisions = list[tuple[Candidates, ...]]


@dataclass(frozen=True)
class Teacher:
    """Teacher whose predictions replace a head's own.

    Attributes:
        seam: The student's seam, with the teacher's.
        head: The teacher's head.
        outputs: What it returned for the batch.
    """

    seam: Seam
    head: BaseDenseHead
    outputs: Any


@dataclass(frozen=True)
class JointDecisions:
    """Shared label assignment of networks that learn together.

    Attributes:
        decisions: For each image its objects' candidates.
        teachers: For each image ``(G, L)`` int, index of the network that is the teacher of an object on a level; -1
            where the object has no candidates there.
    """

    decisions: Decisions
    teachers: list[np.ndarray]


class Decided(Exception):  # noqa: N818  -- no error
    """Raised to stop a head's loss as soon as its label assignment is recorded."""


def shallow_copy(head: BaseDenseHead) -> BaseDenseHead:
    """Copy a head with shared weights, so that its attributes may be set; lists, which some heads fill, are copied."""
    copied = copy.copy(head)
    for name, value in vars(copied).items():
        if isinstance(value, list):
            copied.__dict__[name] = list(value)
    return copied


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Copy a tensor of any device."""
    return tensor.detach().cpu().numpy()


def recording(
    switch: Switch, roles: list[tuple[RoleSwitch, Membership]]
) -> Callable[[Tensor, Membership, Callable[[int], Separation]], RoleSwitch]:
    """The switch, which adds each of its decisions to ``roles``, with the candidates that it is about."""

    def switched(
        losses: Tensor, membership: Membership, separations: Callable[[int], Separation]
    ) -> RoleSwitch:
        roles.append((switch(losses, membership, separations), membership))
        return roles[-1][0]

    return switched


def teachers_of(
    roles: Sequence[tuple[RoleSwitch, Membership]], num_objects: int, num_levels: int
) -> np.ndarray:
    """(G, L) int, the teacher of each object on each level by what :func:`recording` recorded; -1 without one."""
    teacher = np.full((num_objects, num_levels), -1)
    for switched, membership in roles:
        teacher[to_numpy(membership.gt), to_numpy(membership.level)] = to_numpy(switched.teacher)
    return teacher
