"""Where MMDetection's heads decide their labels, and how a teacher's decision is put in that place.

A seam is one row of :data:`SEAMS`: the heads it fits, a check made when the detector is built, and a context in
which the student's head decides as the teacher does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Any, Protocol

from lad.assignment.candidates import PAACandidates
from lad.assignment.paa import PAAReassignment
from lad.assignment.paa_memory import RememberingScorer, encode
from lad.assignment.replay import replaced
from lad.errors import UnsupportedError
from lad.heads.batched_paa_head import BatchedPAAHead, PAAPredictions, PAAScorer

import torch
from mmdet.models.dense_heads import LADHead, PAAHead
from mmdet.models.task_modules import AnchorGenerator
from mmdet.models.utils import levels_to_images
from torch import Tensor, nn


class Seam(ABC):
    """The place where a family of heads decides which priors are positive."""

    heads: tuple[type[nn.Module], ...]
    works_with: str

    def fits(self, head: nn.Module) -> bool:
        """Whether a head decides its labels here."""
        return isinstance(head, self.heads)

    @abstractmethod
    def check(self, student: nn.Module, teacher: nn.Module) -> None:
        """Refuse two heads whose decisions do not correspond.

        Raises:
            UnsupportedError: names both sides and what differs.
        """

    @abstractmethod
    def replay(
        self,
        student: nn.Module,
        teacher: nn.Module,
        teacher_outputs: TeacherOutputs,
        metas: Sequence[dict],
        memory: Memory | None = None,
    ) -> AbstractContextManager:
        """A context in which ``student`` takes its positives from ``teacher``.

        Args:
            student: The student's head.
            teacher: The teacher's head.
            teacher_outputs: Gives what the teacher's head returns for images of the batch, by their numbers.
            metas: Metadata of the images.
            memory: What is remembered of the teacher; None to compute everything.
        """

    def check_memory(self, student: nn.Module) -> None:
        """Refuse to remember the teacher for a head that cannot use it."""
        raise UnsupportedError(
            f"{type(student).__name__} cannot use a remembered teacher: leave out `cache`."
        )


TeacherOutputs = Callable[[Sequence[int]], Any]


class Memory(Protocol):
    """What is remembered of a teacher for the images of one batch."""

    records: Sequence[bytes | None]

    def remember(self, images: Sequence[int], records: Sequence[bytes]) -> None:
        """Keep records of images, by their numbers in the batch."""


class PAASeam(Seam):
    """PAA decides by the losses of its candidates, which go into the mixture.

    The candidates themselves (max-IoU), the top-k and the mixture are functions of these losses, the anchors and the
    ground truth alone, so the teacher's decision is had by letting the teacher score the student's candidates: anchors
    and pre-assignment are computed once for both.
    """

    heads = (PAAHead,)
    works_with = "PAAHead, BatchedPAAHead"

    def check(self, student: PAAHead, teacher: PAAHead) -> None:  # noqa: D102
        if isinstance(student, LADHead):
            raise UnsupportedError(
                "the student's LADHead expects MMDetection's LAD detector: use BatchedPAAHead "
                "(box_loss_weight='uniform' gives LADHead's losses)."
            )
        if student.num_classes != teacher.num_classes:
            raise UnsupportedError(
                f"the student has {student.num_classes} classes and the teacher {teacher.num_classes}: "
                "a teacher that assigns labels must know the same classes; set both num_classes alike."
            )
        check_same_priors(student.prior_generator, teacher.prior_generator)

    def check_memory(self, student: PAAHead) -> None:  # noqa: D102
        if not isinstance(student, BatchedPAAHead):
            raise UnsupportedError(
                f"{type(student).__name__} cannot use a remembered teacher: use BatchedPAAHead, or leave out `cache`."
            )

    def replay(  # noqa: D102
        self,
        student: PAAHead,
        teacher: PAAHead,
        teacher_outputs: TeacherOutputs,
        metas: Sequence[dict],
        memory: Memory | None = None,
    ) -> AbstractContextManager:
        if not isinstance(student, BatchedPAAHead):
            return replaced(
                student, "get_pos_loss", _scorer_image_by_image(teacher, teacher_outputs, len(metas))
            )
        if memory is None:
            return replaced(student, "scorer", _batched_scorer(teacher, teacher_outputs))
        return _replay_with_memory(student, teacher, teacher_outputs, metas, memory)


def _batched_scorer(
    teacher: PAAHead, teacher_outputs: TeacherOutputs
) -> Callable[[PAAPredictions], PAAScorer]:
    def scorer(student: PAAPredictions) -> PAAScorer:
        predictions = PAAPredictions.from_levels(teacher, *teacher_outputs(range(student.num_images)))
        _check_same_size(len(student.cls_scores), len(predictions.cls_scores))
        return PAAScorer(teacher, predictions)

    return scorer


@contextmanager
def _replay_with_memory(
    student: BatchedPAAHead,
    teacher: PAAHead,
    teacher_outputs: TeacherOutputs,
    metas: Sequence[dict],
    memory: Memory,
) -> Iterator[None]:
    missing = [image for image, record in enumerate(memory.records) if record is None]

    def scorer(predictions: PAAPredictions) -> RememberingScorer:
        computed = None
        if missing:
            seen = PAAPredictions.from_levels(teacher, *teacher_outputs(missing))
            _check_same_size(
                len(predictions.cls_scores) // predictions.num_images, len(seen.cls_scores) // len(missing)
            )
            computed = PAAScorer(teacher, seen)
        return RememberingScorer(memory.records, metas, computed, predictions.cls_scores.device)

    reassign = student.reassign

    def reassign_and_remember(losses: Tensor, candidates: PAACandidates) -> PAAReassignment:
        assignment = reassign(losses, candidates)
        if missing:
            memory.remember(missing, encode(candidates, assignment, metas, missing))
        return assignment

    with replaced(student, "scorer", scorer), replaced(student, "reassign", reassign_and_remember):
        yield


def _scorer_image_by_image(
    teacher: PAAHead, teacher_outputs: TeacherOutputs, num_images: int
) -> Callable[..., tuple[Tensor]]:
    """For MMDetection's own head, which asks for the losses of one image after the other."""
    numbers = count()
    images: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def get_pos_loss(
        anchors: list[Tensor], cls_score: Tensor, bbox_pred: Tensor, *targets: Tensor
    ) -> tuple[Tensor]:
        if not images:
            cls_scores, bbox_preds, _ = teacher_outputs(range(num_images))
            images.extend(zip(levels_to_images(cls_scores), levels_to_images(bbox_preds), strict=True))
        teacher_cls, teacher_bbox = images[next(numbers)]
        teacher_cls = teacher_cls.reshape(-1, teacher.cls_out_channels)
        _check_same_size(len(cls_score), len(teacher_cls))
        return teacher.get_pos_loss(anchors, teacher_cls, teacher_bbox.reshape(-1, 4), *targets)

    return get_pos_loss


def _check_same_size(student: int, teacher: int) -> None:
    if student != teacher:
        raise UnsupportedError(
            f"the student's head has {student} anchors for this batch and the teacher's {teacher}: "
            "their feature maps differ in size; give both the same strides and the same padding."
        )


def check_same_priors(student: AnchorGenerator, teacher: AnchorGenerator) -> None:
    """Refuse anchor generators that do not give the same anchors.

    Raises:
        UnsupportedError: strides or base anchors differ.
    """
    if list(student.strides) != list(teacher.strides):
        raise UnsupportedError(
            f"the student's strides {_short(student.strides)} are not the teacher's {_short(teacher.strides)}: "
            "label assignment needs the same anchors; change anchor_generator.strides and the neck's levels."
        )
    for level, (own, others) in enumerate(zip(student.base_anchors, teacher.base_anchors, strict=True)):
        if own.shape != others.shape or not torch.allclose(own, others):
            raise UnsupportedError(
                f"student and teacher have different anchors (level {level}: {own.tolist()} and {others.tolist()}): "
                "label assignment needs the same; set the same anchor_generator in both."
            )


def _short(strides: list) -> list:
    return [pair[0] if pair[0] == pair[1] else pair for pair in strides]


SEAMS: tuple[Seam, ...] = (PAASeam(),)


def find_seam(student: nn.Module, teacher: nn.Module) -> Seam:
    """The seam through which ``teacher`` can assign the labels of ``student``; both are detectors.

    Raises:
        UnsupportedError: a head decides from anchors alone or is unknown, or the two do not correspond.
    """
    heads = [getattr(model, "bbox_head", None) for model in (student, teacher)]
    for seam in SEAMS:
        if all(seam.fits(head) for head in heads):
            seam.check(*heads)
            return seam
    known = ", ".join(seam.works_with for seam in SEAMS)
    names = [
        f"{role} {type(model).__name__} ({type(head).__name__ if head is not None else 'no bbox_head'})"
        for role, model, head in zip(("student", "teacher"), (student, teacher), heads, strict=True)
    ]
    raise UnsupportedError(
        f"LabelAssignmentDistillation does not fit {' with '.join(names)}: a head that decides labels from anchors "
        f"alone has nothing to learn from a teacher's assignment, and both heads must decide in the same way; "
        f"it works with {known}."
    )
