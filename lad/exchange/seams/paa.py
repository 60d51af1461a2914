"""Seam of PAA: the losses of the candidates are exchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count

from lad.assignment.candidates import PAACandidates
from lad.assignment.finite import check_finite
from lad.assignment.paa import PAAReassignment
from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.exchange.paa_memory import CachedScorer, encode_records
from lad.exchange.seams.base import Memory, Mode, Seam, TeacherOutputs, check_same_classes, check_same_priors
from lad.heads.batched_paa_head import BatchedPAAHead, PAAPredictions, PAAScorer

import torch
from mmdet.models.dense_heads import LADHead, PAAHead
from mmdet.models.utils import levels_to_images
from mmdet.structures import SampleList
from torch import Tensor


class PAASeam(Seam):
    """Seam of PAA, which assigns by the losses of its candidates that enter the mixture.

    The candidates themselves (max-IoU), the top-k and the mixture are functions of these losses, the anchors and the
    ground truth alone. So the teacher's decision follows from the teacher's losses of the student's candidates: anchors
    and pre-assignment are computed once for both.
    """

    heads = (PAAHead,)
    works_with = "PAAHead, BatchedPAAHead"

    def check(self, student: PAAHead, teacher: PAAHead, mode: Mode) -> None:  # noqa: D102
        if mode != "hard":
            raise UnsupportedError(
                f"{type(student).__name__} has mode='hard' only: of PAA's teacher the losses of candidates are used, "
                "and the IoU targets are always the student's own."
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
                f"{type(student).__name__} cannot replay cached decisions of a teacher: use BatchedPAAHead, or leave "
                "out `cache`."
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
            return replaced(student, "get_pos_loss", _scorer_image_by_image(teacher, teacher_outputs, metas))
        if memory is None:
            return replaced(student, "scorer", _batched_scorer(teacher, teacher_outputs))
        return _replay_cached(student, teacher, teacher_outputs, metas, memory)


def _batched_scorer(
    teacher: PAAHead, teacher_outputs: TeacherOutputs
) -> Callable[[PAAPredictions], PAAScorer]:
    def scorer(student: PAAPredictions) -> PAAScorer:
        predictions = PAAPredictions.from_levels(teacher, *teacher_outputs(range(student.num_images)))
        _check_same_size(len(student.cls_scores), len(predictions.cls_scores))
        return PAAScorer(teacher, predictions)

    return scorer


@contextmanager
def _replay_cached(
    student: BatchedPAAHead,
    teacher: PAAHead,
    teacher_outputs: TeacherOutputs,
    metas: Sequence[dict],
    memory: Memory,
) -> Iterator[None]:
    missing = [image for image, record in enumerate(memory.records) if record is None]

    def scorer(predictions: PAAPredictions) -> CachedScorer:
        computed = None
        if missing:
            seen = PAAPredictions.from_levels(teacher, *teacher_outputs(missing))
            _check_same_size(
                len(predictions.cls_scores) // predictions.num_images, len(seen.cls_scores) // len(missing)
            )
            computed = PAAScorer(teacher, seen)
        return CachedScorer(memory.records, metas, computed, predictions.cls_scores.device)

    reassign = student.reassign

    def reassign_and_store(losses: Tensor, candidates: PAACandidates) -> PAAReassignment:
        assignment = reassign(losses, candidates)
        if missing:
            memory.remember(missing, encode_records(candidates, assignment, metas, missing))
        return assignment

    with replaced(student, "scorer", scorer), replaced(student, "reassign", reassign_and_store):
        yield


def _scorer_image_by_image(
    teacher: PAAHead, teacher_outputs: TeacherOutputs, metas: Sequence[dict]
) -> Callable[..., tuple[Tensor]]:
    """Replacement of ``get_pos_loss`` of MMDetection's own head, which is called for one image after the other."""
    indices = count()
    images: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def get_pos_loss(
        anchors: list[Tensor], cls_score: Tensor, bbox_pred: Tensor, *targets: Tensor
    ) -> tuple[Tensor]:
        if not images:
            cls_scores, bbox_preds, _ = teacher_outputs(range(len(metas)))
            # Waits for the device, as the head itself does for every object.
            check_finite(metas, *cls_scores, *bbox_preds)
            images.extend(zip(levels_to_images(cls_scores), levels_to_images(bbox_preds), strict=True))
        teacher_cls, teacher_bbox = images[next(indices)]
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
