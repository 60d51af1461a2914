"""Base of seams: the place in a family of heads where label assignment is decided."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from lad.errors import UnsupportedError

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.task_modules import AnchorGenerator, MlvlPointGenerator
from mmdet.structures import SampleList
from torch import Tensor, nn

#: ``'hard'``: the teacher's matches, with qualities from the student's own predictions. ``'soft'``: the teacher's
#: matches and qualities.
Mode = Literal["hard", "soft"]

#: Returns the outputs of the teacher's head for images of the batch, by their indices.
TeacherOutputs = Callable[[Sequence[int]], Any]


#: (height, width) in cells of each level.
Sizes = Sequence[tuple[int, int]]


class Memory(Protocol):
    """Records of a teacher's decisions on the images of one batch."""

    @property
    def records(self) -> Sequence[bytes | None]:
        """The record of each image; None for an image without one."""

    def remember(self, images: Sequence[int], records: Sequence[bytes]) -> None:
        """Store records of images, by their indices in the batch."""


class Seam(ABC):
    """Place where a family of heads decides which priors are positive; an entry of ``SEAMS``."""

    heads: tuple[type[nn.Module], ...]
    works_with: str

    def fits(self, head: BaseDenseHead | None) -> bool:
        """Whether a head belongs to this family."""
        return isinstance(head, self.heads)

    def with_teacher(self, teacher: Seam) -> Seam | None:
        """Seam for a student's head of this family and a teacher's of the family ``teacher``; None if there is none."""
        return self if type(teacher) is type(self) else None

    @abstractmethod
    def check(self, student: BaseDenseHead, teacher: BaseDenseHead, mode: Mode) -> None:
        """Refuse two heads whose decisions do not correspond.

        Raises:
            UnsupportedError: names both sides and what differs.
        """

    @abstractmethod
    def replay(
        self,
        student: BaseDenseHead,
        teacher: BaseDenseHead,
        teacher_outputs: TeacherOutputs,
        samples: SampleList,
        mode: Mode = "hard",
        memory: Memory | None = None,
    ) -> AbstractContextManager:
        """Context in which the loss of ``student`` uses the positives that ``teacher`` decides.

        Args:
            student: The student's head.
            teacher: The teacher's head.
            teacher_outputs: Returns the outputs of the teacher's head.
            samples: Ground truth and metadata of the images.
            mode: Whether the qualities of positives are the student's or the teacher's.
            memory: Records of the teacher's decisions; None to compute all of them.
        """

    def check_memory(self, student: BaseDenseHead) -> None:
        """Refuse a head that cannot replay cached decisions."""
        raise UnsupportedError(
            f"{type(student).__name__} cannot replay cached decisions of a teacher: leave out `cache`."
        )


def check_same_classes(student: BaseDenseHead, teacher: BaseDenseHead) -> None:
    """Refuse heads with different numbers of classes.

    Raises:
        UnsupportedError: names both numbers.
    """
    if student.num_classes != teacher.num_classes:
        raise UnsupportedError(
            f"the student has {student.num_classes} classes and the teacher {teacher.num_classes}: "
            "a teacher that assigns labels must have the same classes; set both num_classes alike."
        )


def check_same_sizes(student: str, teacher: str, own: Sizes, others: Sizes) -> None:
    """Refuse feature maps of other sizes.

    Args:
        student, teacher: What to call the two in the message.
        own, others: (height, width) of each level in cells of the first's maps, and of the second's.

    Raises:
        UnsupportedError: names both.
    """
    if tuple(own) != tuple(others):
        raise UnsupportedError(
            f"{student} has feature maps of {_cells(own)} cells and {teacher} of {_cells(others)}: their feature maps "
            "differ in size; give both the same strides and the same padding."
        )


def _cells(sizes: Sizes) -> str:
    return ", ".join(f"{height}x{width}" for height, width in sizes)


def check_same_priors(
    student: AnchorGenerator | MlvlPointGenerator, teacher: AnchorGenerator | MlvlPointGenerator
) -> None:
    """Refuse prior generators whose priors are not the same.

    Two anchor generators must give the same anchors; where at least one of them gives points, the centres of a cell's
    priors must be the same.

    Raises:
        UnsupportedError: strides, anchors or points differ.
    """
    if list(student.strides) != list(teacher.strides):
        raise UnsupportedError(
            f"the student's strides {_short(student.strides)} are not the teacher's {_short(teacher.strides)}: "
            "both need the same priors; change the strides of the prior generator and the neck's levels."
        )
    if isinstance(student, AnchorGenerator) and isinstance(teacher, AnchorGenerator):
        pairs = zip(student.base_anchors, teacher.base_anchors, strict=True)
    else:
        pairs = zip(_first_points(student), _first_points(teacher), strict=True)
    for level, (own, others) in enumerate(pairs):
        if own.shape != others.shape or not torch.allclose(own, others):
            raise UnsupportedError(
                f"student and teacher have different anchors on level {level} ({_difference(own, others)}); "
                "set the same anchor_generator in both."
            )


def _difference(own: Tensor, others: Tensor) -> str:
    """Short description of the difference of two cells' priors (A, 4) or points (A, 2)."""
    if len(own) != len(others):
        return f"{len(own)} and {len(others)} a cell"
    pairs = ([prior.round(decimals=1).tolist() for prior in pair] for pair in zip(own, others, strict=True))
    first, other = next(pair for pair in pairs if pair[0] != pair[1])
    return f"the first that differs: {first} and {other} px"


def _first_points(generator: AnchorGenerator | MlvlPointGenerator) -> list[Tensor]:
    """Centres of the priors of the first cell of each level, (A, 2) in pixels."""
    priors = generator.grid_priors([(1, 1)] * generator.num_levels, device="cpu")
    if isinstance(generator, AnchorGenerator):
        return [(anchors[:, :2] + anchors[:, 2:]) / 2 for anchors in priors]
    return [points[:, :2].float() for points in priors]


def _short(strides: list) -> list:
    return [pair[0] if pair[0] == pair[1] else pair for pair in strides]
