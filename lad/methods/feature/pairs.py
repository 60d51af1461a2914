"""Pairs of feature maps that a method compares."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from lad.base.capture import split_level
from lad.errors import listed
from lad.methods.feature.maps import as_map, channels_of, stride_of
from lad.networks.dry_run import DRY_RUN_SIZE

from mmengine.logging import print_log
from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """One map of the student's and the one of the teacher's that it is compared with.

    Attributes:
        student: Its name, ``'neck[1]'``.
        teacher: Likewise.
        channels: The student's and the teacher's.
        strides: The student's and the teacher's pixels of the image a cell; (0, 0) for what are no two maps.
        as_maps: Whether sequences of tokens are made maps before they are compared.
    """

    student: str
    teacher: str
    channels: tuple[int, int]
    strides: tuple[int, int]
    as_maps: bool


def pair_maps(
    student_name: str, teacher_name: str, student: Tensor, teacher: Tensor, loss: type
) -> tuple[Pair, Tensor, Tensor]:
    """Pair two maps of a dry run, and make maps of sequences of tokens where the loss compares maps.

    Args:
        student_name, teacher_name: Names of the maps.
        student, teacher: The maps: (N, C, H, W), (N, L, C) or (N, C).
        loss: Class of the loss; its attributes ``maps_only`` and ``any_shape`` tell what it compares.

    Returns:
        The pair, and both maps as the loss compares them.

    Raises:
        UnsupportedError: a sequence of tokens is no map.
    """
    other_tokens = student.dim() == teacher.dim() == 3 and student.shape[1] != teacher.shape[1]
    as_maps = getattr(loss, "maps_only", False) or student.dim() != teacher.dim() or other_tokens
    as_maps = as_maps and not getattr(loss, "any_shape", False)
    channels = channels_of(student), channels_of(teacher)
    if as_maps:
        student, teacher = as_map(student, DRY_RUN_SIZE), as_map(teacher, DRY_RUN_SIZE)
    both_maps = student.dim() == teacher.dim() == 4
    strides = (stride_of(student), stride_of(teacher)) if both_maps else (0, 0)
    return Pair(student_name, teacher_name, channels, strides, as_maps), student, teacher


def numbered(name: str, number: int) -> str:
    """A map's own name: ``'neck'`` and 2 make ``'neck[2]'``."""
    return name if split_level(name)[1] is not None else f"{name}[{number}]"


def report_strides(owner: str, pairs: Sequence[Pair]) -> None:
    """Log which maps are resized to be compared: on purpose, or because two detectors' levels begin elsewhere.

    Args:
        owner: The method, for the message.
        pairs: Its pairs.
    """
    resized = [
        f"{pair.student} ({pair.strides[0]}) with {pair.teacher} ({pair.strides[1]})"
        for pair in pairs
        if pair.strides[0] != pair.strides[1]
    ]
    if resized:
        print_log(
            f"{owner}: maps of other strides are compared, the student's resized: {listed(resized)}. "
            "If levels of the same strides are meant, name them, such as 'neck[1]'.",
            logger="current",
            level=logging.WARNING,
        )
