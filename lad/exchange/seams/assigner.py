"""Heads that ask an assigner image by image, with their predictions: the teacher's predictions are exchanged.

The student's own assigner answers, on the student's priors and ground truth, but looks at the teacher's scores and
boxes. So anchors, settings, ignored regions and images without objects are the student's by construction, and the
teacher's targets are never computed.
"""

from __future__ import annotations

import copy
import inspect
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from lad.errors import UnsupportedError
from lad.exchange.replay import AssignerCall, answering
from lad.exchange.seams.base import Memory, Mode, Seam, TeacherOutputs, check_same_classes, check_same_priors

import torch
from mmdet.models.task_modules import AssignResult, ATSSAssigner, MaxIoUAssigner
from mmdet.models.task_modules.prior_generators import anchor_inside_flags
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from torch import Tensor, nn

#: What a score is: a logit, or a probability in [0, 1].
Scores = Literal["logits", "probabilities"]

# Least distance of a probability from 0 and 1 before it becomes a logit.
_EPS = 1e-6


@dataclass(frozen=True)
class DensePredictions:
    """A head's predictions of a batch in the form in which assigners want them, in new memory.

    Attributes:
        scores: (N, P, C), logits or probabilities.
        bboxes: (N, P, 4) xyxy in pixels.
        sizes: (height, width) of each level in cells.
    """

    scores: Tensor
    bboxes: Tensor
    sizes: tuple[tuple[int, int], ...]

    def of_kind(self, have: Scores, want: Scores) -> DensePredictions:
        """The same with scores of another kind."""
        if have == want:
            return self
        if want == "probabilities":
            return DensePredictions(self.scores.sigmoid(), self.bboxes, self.sizes)
        # In half precision 1 - eps is 1.
        return DensePredictions(torch.logit(self.scores.float(), eps=_EPS), self.bboxes, self.sizes)


def flatten_levels(levels: Sequence[Tensor], channels: int) -> Tensor:
    """(N, P, channels) from a head's (N, A * channels, H, W) a level; always new memory."""
    flat = [level.permute(0, 2, 3, 1).reshape(len(level), -1, channels) for level in levels]
    return torch.cat(flat, dim=1)


def level_sizes(levels: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    """(height, width) of each level of a head's outputs."""
    return tuple((level.shape[-2], level.shape[-1]) for level in levels)


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{height}x{width}" for height, width in sizes)


class AssignerSeam(Seam):
    """A family of heads whose assigners are called with ``pred_instances`` and answer with an ``AssignResult``.

    A row of the table says where the assigners are (``sites``), what the scores are that they are given (``scores``),
    and how a head's outputs become such scores and boxes (:meth:`predictions`). If an answer carries more than matches
    and ``max_overlaps``, :meth:`requalify` says how to compute it from the student's predictions.
    """

    sites: tuple[str, ...] = ("assigner",)
    scores: Scores = "logits"

    #: The family of the teacher's head.
    teacher: AssignerSeam

    def __init__(self) -> None:
        self.teacher = self

    @abstractmethod
    def predictions(self, head: nn.Module, outputs: Any) -> DensePredictions:
        """What a head would ask its assigner with.

        Args:
            head: A head of this family.
            outputs: What its ``forward`` returned for the batch.
        """

    def asks(self, head: nn.Module) -> bool:
        """Whether the head decided from predictions in the step that has just been made."""
        return True

    def requalify(self, call: AssignerCall, result: AssignResult) -> None:
        """Give positives, in place, the qualities that the head's own predictions have there (mode ``'hard'``)."""
        if len(call.gt_instances) == 0:
            return
        overlaps = matched_overlaps(call, result).to(result.max_overlaps.dtype)
        result.max_overlaps = torch.where(result.gt_inds > 0, overlaps, result.max_overlaps)

    def taught_by(self, teacher: Seam) -> Seam | None:  # noqa: D102
        if not isinstance(teacher, AssignerSeam):
            return None
        pair = copy.copy(self)
        pair.teacher = teacher
        return pair

    def check(self, student: nn.Module, teacher: nn.Module, mode: Mode) -> None:  # noqa: D102
        check_same_classes(student, teacher)
        check_same_priors(student.prior_generator, teacher.prior_generator)
        for site in self.sites:
            assigner = getattr(student, site, None)
            if assigner is None:
                raise UnsupportedError(
                    f"the student's {type(student).__name__} has no {site}: give its config a `train_cfg`."
                )
            asked = inspect.signature(assigner.assign).parameters if hasattr(assigner, "assign") else ()
            if "pred_instances" not in asked or "gt_instances" not in asked:
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
                    "anchors alone: there is nothing to learn from a teacher's assignment; set an assigner that looks "
                    "at predictions."
                )

    @contextmanager
    def replay(  # noqa: D102
        self,
        student: nn.Module,
        teacher: nn.Module,
        teacher_outputs: TeacherOutputs,
        samples: SampleList,
        mode: Mode = "hard",
        memory: Memory | None = None,
    ) -> Iterator[None]:
        batch = TaughtBatch(self, student, teacher, teacher_outputs, samples)

        def answer(call: AssignerCall) -> AssignResult:
            result = call.assign(pred_instances=batch.instances_for(call))
            if mode == "hard":
                self.requalify(call, result)
            return result

        gt_instances = [sample.gt_instances for sample in samples]
        hook = student.register_forward_hook(batch.see_student)
        try:
            with answering(student, self.sites, gt_instances, answer, lambda: self.asks(student)):
                yield
        finally:
            hook.remove()


def matched_overlaps(call: AssignerCall, result: AssignResult) -> Tensor:
    """(V,) IoU of each of the head's own boxes with its object; meaningless where it has none. Needs an object."""
    calculator = getattr(call.assigner, "iou_calculator", bbox_overlaps)
    matched = (result.gt_inds - 1).clamp(min=0)
    return calculator(call.own.bboxes.detach(), call.gt_instances.bboxes[matched], is_aligned=True)


class TaughtBatch:
    """The teacher's predictions for one batch, in the place of the student's; computed when the student first asks.

    Args:
        seam: The student's family, with the teacher's.
        student, teacher: The heads.
        teacher_outputs: Gives what the teacher's head returns.
        samples: The batch.
    """

    def __init__(
        self,
        seam: AssignerSeam,
        student: nn.Module,
        teacher: nn.Module,
        teacher_outputs: TeacherOutputs,
        samples: SampleList,
    ) -> None:
        self._seam = seam
        self._student = student
        self._teacher = teacher
        self._outputs = teacher_outputs
        self._metas = [sample.metainfo for sample in samples]
        self._student_sizes: tuple[tuple[int, int], ...] | None = None

    def see_student(self, head: nn.Module, args: tuple, outputs: Any) -> None:
        """Forward hook: remember how large the student's feature maps are."""
        self._student_sizes = level_sizes(outputs[0])

    @cached_property
    @torch.no_grad()
    def predictions(self) -> DensePredictions:
        """The teacher's predictions, with scores of the kind that the student's assigner wants."""
        family = self._seam.teacher
        found = family.predictions(self._teacher, self._outputs(range(len(self._metas))))
        if self._student_sizes not in (None, found.sizes):
            raise UnsupportedError(
                f"the student's {type(self._student).__name__} has feature maps of {_sizes(self._student_sizes)} cells "
                f"and the teacher's {type(self._teacher).__name__} of {_sizes(found.sizes)}: their feature maps differ "
                "in size; give both the same strides and the same padding."
            )
        return found.of_kind(family.scores, self._seam.scores)

    @cached_property
    def _inside(self) -> list[Tensor]:
        """For each image the priors that take part, (P,) bool, as the student's head decides it."""
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
        """The student's ``pred_instances`` with the teacher's scores and boxes.

        Raises:
            UnsupportedError: the teacher has predictions for other priors.
        """
        scores, bboxes = self.predictions.scores[call.image], self.predictions.bboxes[call.image]
        own = call.own
        scores, bboxes = self._taking_part(call, scores), self._taking_part(call, bboxes)
        if len(own) != len(scores):
            raise UnsupportedError(
                f"the student's {type(self._student).__name__} asks for {len(own)} priors of image {call.image} of the "
                f"batch and the teacher's {type(self._teacher).__name__} has {len(scores)}: they must take part in the "
                "same order and number; give this head a seam of its own."
            )
        taught = copy.copy(own)
        taught.scores = scores.to(own.scores.dtype)
        taught.bboxes = bboxes.to(own.bboxes.dtype)
        return taught

    def levels(self, call: AssignerCall) -> Tensor:
        """(V,) int64, the level of each prior that takes part."""
        predictions = self.predictions
        counts = [
            len(predictions.bboxes[0]) * height * width // self._cells for height, width in predictions.sizes
        ]
        levels = [torch.full((count,), level) for level, count in enumerate(counts)]
        return self._taking_part(call, torch.cat(levels).to(predictions.bboxes.device, non_blocking=True))

    @property
    def num_levels(self) -> int:
        """How many levels there are."""
        return len(self.predictions.sizes)

    @property
    def _cells(self) -> int:
        return sum(height * width for height, width in self.predictions.sizes)

    def _taking_part(self, call: AssignerCall, values: Tensor) -> Tensor:
        """Those of the rows (P, ...) of all priors whose priors take part, as the student's head decides it."""
        if len(call.own) == len(values) or not hasattr(self._student, "get_anchors"):
            return values
        # Waits for their number, as the head itself does.
        return values[self._inside[call.image]]
