"""Seam of heads that pass their predictions to an assigner image by image: the teacher's are passed instead.

The student's own assigner decides, on the student's priors and ground truth, from the teacher's scores and boxes. So
anchors, settings, ignored regions and images without objects are the student's by construction, and the teacher's
targets are never computed.
"""

from __future__ import annotations

import copy
import inspect
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from lad.assignment.finite import check_finite
from lad.errors import UnsupportedError
from lad.exchange.replay import AssignerCall, replace_assigners
from lad.exchange.seams.base import (
    Memory,
    Mode,
    Seam,
    TeacherOutputs,
    check_same_classes,
    check_same_priors,
    check_same_sizes,
)
from lad.heads.dense import DensePredictions, Scores, level_sizes

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.task_modules import AssignResult, ATSSAssigner, MaxIoUAssigner
from mmdet.models.task_modules.prior_generators import anchor_inside_flags
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from torch import Tensor


class AssignerSeam(Seam):
    """Seam of a family of heads whose assigners take ``pred_instances`` and return an ``AssignResult``.

    A subclass defines the names of the attributes that hold the assigners (``sites``), the kind of scores that they
    take (``scores``), and how a head's outputs become such scores and boxes (:meth:`predictions`). If a result carries
    more than matches and ``max_overlaps``, :meth:`update_qualities` computes it from the student's predictions.
    """

    sites: tuple[str, ...] = ("assigner",)
    scores: Scores = "logits"

    #: Seam of the teacher's family of heads.
    teacher: AssignerSeam

    def __init__(self) -> None:
        self.teacher = self

    @abstractmethod
    def predictions(self, head: BaseDenseHead, outputs: Any) -> DensePredictions:
        """Scores and boxes that a head passes to its assigner.

        Args:
            head: A head of this family.
            outputs: What its ``forward`` returned for the batch.
        """

    def uses_predictions(self, head: BaseDenseHead) -> bool:
        """Whether the head's label assignment used predictions in the current step."""
        return True

    def update_qualities(self, call: AssignerCall, result: AssignResult) -> None:
        """Set the qualities of positives, in place, to those of the head's own predictions (mode ``'hard'``)."""
        if len(call.gt_instances) == 0:
            return
        overlaps = matched_overlaps(call, result).to(result.max_overlaps.dtype)
        result.max_overlaps = torch.where(result.gt_inds > 0, overlaps, result.max_overlaps)

    def with_teacher(self, teacher: Seam) -> Seam | None:  # noqa: D102
        if not isinstance(teacher, AssignerSeam):
            return None
        pair = copy.copy(self)
        pair.teacher = teacher
        return pair

    def check(self, student: BaseDenseHead, teacher: BaseDenseHead, mode: Mode) -> None:  # noqa: D102
        check_same_classes(student, teacher)
        check_same_priors(student.prior_generator, teacher.prior_generator)
        for site in self.sites:
            assigner = getattr(student, site, None)
            if assigner is None:
                raise UnsupportedError(
                    f"the student's {type(student).__name__} has no {site}: give its config a `train_cfg`."
                )
            parameters = inspect.signature(assigner.assign).parameters if hasattr(assigner, "assign") else ()
            if "pred_instances" not in parameters or "gt_instances" not in parameters:
                raise UnsupportedError(
                    f"the student's {type(student).__name__}.{site} is a {type(assigner).__name__} without "
                    "assign(pred_instances, gt_instances, ...), through which a teacher's decision is replayed: "
                    "give this head a seam of its own."
                )
            if isinstance(assigner, MaxIoUAssigner) or (
                isinstance(assigner, ATSSAssigner) and assigner.alpha is None
            ):
                raise UnsupportedError(
                    f"the student's {type(student).__name__}.{site} is a {type(assigner).__name__} that decides from "
                    "anchors alone: there is nothing to learn from a teacher's assignment; set an assigner that uses "
                    "predictions."
                )

    @contextmanager
    def replay(  # noqa: D102
        self,
        student: BaseDenseHead,
        teacher: BaseDenseHead,
        teacher_outputs: TeacherOutputs,
        samples: SampleList,
        mode: Mode = "hard",
        memory: Memory | None = None,
    ) -> Iterator[None]:
        batch = TeacherPredictions(self, student, teacher, teacher_outputs, samples)

        def assign(call: AssignerCall) -> AssignResult:
            result = call.assign(pred_instances=batch.instances_for(call))
            if mode == "hard":
                self.update_qualities(call, result)
            return result

        gt_instances = [sample.gt_instances for sample in samples]
        hook = student.register_forward_hook(batch.record_sizes)
        try:
            with replace_assigners(
                student, self.sites, gt_instances, assign, lambda: self.uses_predictions(student)
            ):
                yield
        finally:
            hook.remove()


def matched_overlaps(call: AssignerCall, result: AssignResult) -> Tensor:
    """IoU (V,) of each of the head's own boxes with its matched object; undefined where unmatched. Needs an object."""
    calculator = getattr(call.assigner, "iou_calculator", bbox_overlaps)
    matched = (result.gt_inds - 1).clamp(min=0)
    return calculator(call.pred_instances.bboxes.detach(), call.gt_instances.bboxes[matched], is_aligned=True)


class TeacherPredictions:
    """Predictions of a teacher's head for one batch, in the layout of the student's calls of its assigner.

    They are computed at the first call.

    Args:
        seam: Seam of the student's family, with the teacher's.
        student, teacher: The heads.
        teacher_outputs: Returns the outputs of the teacher's head.
        samples: The batch.
    """

    def __init__(
        self,
        seam: AssignerSeam,
        student: BaseDenseHead,
        teacher: BaseDenseHead,
        teacher_outputs: TeacherOutputs,
        samples: SampleList,
    ) -> None:
        self._seam = seam
        self._student = student
        self._teacher = teacher
        self._outputs = teacher_outputs
        self._metas = [sample.metainfo for sample in samples]
        self._student_sizes: tuple[tuple[int, int], ...] | None = None

    def record_sizes(self, head: BaseDenseHead, args: tuple, outputs: Any) -> None:
        """Forward hook that records the sizes of the student's feature maps."""
        self._student_sizes = level_sizes(outputs[0])

    @cached_property
    @torch.no_grad()
    def predictions(self) -> DensePredictions:
        """The teacher's predictions, with scores of the kind that the student's assigner takes.

        Raises:
            UnsupportedError: its feature maps are of other sizes.
            FloatingPointError: they are not finite.
        """
        family = self._seam.teacher
        found = family.predictions(self._teacher, self._outputs(range(len(self._metas))))
        if self._student_sizes is not None:
            student, teacher = type(self._student).__name__, type(self._teacher).__name__
            check_same_sizes(
                f"the student's {student}", f"the teacher's {teacher}", self._student_sizes, found.sizes
            )
        # Waits for the device, as these assigners themselves do for every image.
        check_finite(self._metas, found.scores, found.bboxes)
        return found.convert_scores(family.scores, self._seam.scores)

    @cached_property
    def _inside(self) -> list[Tensor]:
        """Mask (P,) bool for each image of the priors that the student's head uses."""
        head, predictions = self._student, self.predictions
        priors, valid = head.get_anchors(
            list(predictions.sizes), self._metas, device=predictions.bboxes.device
        )
        border = head.train_cfg["allowed_border"]
        # Image by image as the head itself does.
        return [
            anchor_inside_flags(torch.cat(own), torch.cat(flags), meta["img_shape"][:2], border)
            for own, flags, meta in zip(priors, valid, self._metas, strict=True)
        ]

    def instances_for(self, call: AssignerCall) -> InstanceData:
        """``pred_instances`` of a call with the teacher's scores and boxes.

        Raises:
            UnsupportedError: the teacher has predictions for other priors.
        """
        scores, bboxes = self.predictions.scores[call.image], self.predictions.bboxes[call.image]
        own = call.pred_instances
        scores, bboxes = self._used(call, scores), self._used(call, bboxes)
        if len(own) != len(scores):
            raise UnsupportedError(
                f"the student's {type(self._student).__name__} assigns {len(own)} priors of image {call.image} of the "
                f"batch and the teacher's {type(self._teacher).__name__} has {len(scores)}: both need the same priors "
                "in the same order; give this head a seam of its own."
            )
        taught = copy.copy(own)
        taught.scores = scores.to(own.scores.dtype)
        taught.bboxes = bboxes.to(own.bboxes.dtype)
        return taught

    def levels(self, call: AssignerCall) -> Tensor:
        """Level (V,) int64 of each prior that is used."""
        predictions = self.predictions
        counts = [
            len(predictions.bboxes[0]) * height * width // self._cells for height, width in predictions.sizes
        ]
        levels = [torch.full((count,), level) for level, count in enumerate(counts)]
        return self._used(call, torch.cat(levels).to(predictions.bboxes.device, non_blocking=True))

    @property
    def num_levels(self) -> int:
        """Number of levels."""
        return len(self.predictions.sizes)

    @property
    def _cells(self) -> int:
        return sum(height * width for height, width in self.predictions.sizes)

    def _used(self, call: AssignerCall, values: Tensor) -> Tensor:
        """Rows of values (P, ...) whose priors the student's head uses."""
        if len(call.pred_instances) == len(values) or not hasattr(self._student, "get_anchors"):
            return values
        # Waits for their number, as the head itself does.
        return values[self._inside[call.image]]
