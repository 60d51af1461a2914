"""PAA: the losses of the candidates are exchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count

from lad.assignment.candidates import PAACandidates
from lad.assignment.paa import PAAReassignment
from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.exchange.paa_memory import RememberingScorer, encode
from lad.exchange.seams.base import Memory, Mode, Seam, TeacherOutputs, check_same_classes, check_same_priors
from lad.heads.batched_paa_head import BatchedPAAHead, PAAPredictions, PAAScorer

import torch
from mmdet.models.dense_heads import LADHead, PAAHead
from mmdet.models.utils import levels_to_images
from mmdet.structures import SampleList
from torch import Tensor


class PAASeam(Seam):
    """PAA decides by the losses of its candidates, which go into the mixture.

    The candidates themselves (max-IoU), the top-k and the mixture are functions of these losses, the anchors and the
    ground truth alone, so the teacher's decision is had by letting the teacher score the student's candidates: anchors
    and pre-assignment are computed once for both.
    """

    heads = (PAAHead,)
    works_with = "PAAHead, BatchedPAAHead"

    def check(self, student: PAAHead, teacher: PAAHead, mode: Mode) -> None:  # noqa: D102
        if mode != "hard":
            raise UnsupportedError(
                f"{type(student).__name__} has mode='hard' only: PAA's teacher gives the losses of candidates, and the "
                "IoU targets are always the student's own."
            )
        if isinstance(student, LADHead):
            raise UnsupportedError(
                "the student's LADHead expects MMDetection's LAD detector: use BatchedPAAHead "
                "(box_loss_weight='uniform' gives LADHead's losses)."
            )
        check_same_classes(student, teacher)
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
        samples: SampleList,
        mode: Mode = "hard",
        memory: Memory | None = None,
    ) -> AbstractContextManager:
        metas = [sample.metainfo for sample in samples]
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
