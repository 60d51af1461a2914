"""What the stages of a student's RoI head compute for its own loss, and which of a teacher's stages they match."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.methods.roi.heads import check_classifiers, forward_masks, forward_stage, stages_of

from mmdet.models.detectors import BaseDetector
from mmdet.models.roi_heads.base_roi_head import BaseRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from torch import Tensor


@dataclass(frozen=True)
class StageOutputs:
    """Predictions of one stage of a RoI head for n proposals.

    Attributes:
        number: Of the stage, from 0.
        rois: (n, 5) image number and box.
        cls_score: (n, channels) logits.
        bbox_pred: (n, 4) or (n, 4 C) deltas.
        targets: Their targets; None without labels.
    """

    number: int
    rois: Tensor
    cls_score: Tensor
    bbox_pred: Tensor
    targets: RoITargets | None = None


@dataclass(frozen=True)
class RoITargets:
    """Targets of n proposals as ``BBoxHead.get_targets`` gives them.

    Attributes:
        labels: (n,) int64, the number of classes for background.
        label_weights: (n,).
        bbox_targets: (n, 4), deltas or boxes as the head regresses them.
        bbox_weights: (n, 4), 0 where a proposal is background.
    """

    labels: Tensor
    label_weights: Tensor
    bbox_targets: Tensor
    bbox_weights: Tensor


@contextmanager
def recording_stages(student: BaseDetector) -> Iterator[list[StageOutputs]]:
    """Record proposals, predictions and targets of each stage while a detector computes its own loss in the block."""
    seen: list[StageOutputs] = []

    def recorder(number: int, head: BBoxHead) -> Callable[..., dict]:
        loss_and_target = head.loss_and_target

        def loss_and_record(
            cls_score: Tensor, bbox_pred: Tensor, rois: Tensor, *args: Any, **kw: Any
        ) -> dict:
            result = loss_and_target(cls_score, bbox_pred, rois, *args, **kw)
            targets = RoITargets(*result["bbox_targets"])
            seen.append(StageOutputs(number, rois, cls_score, bbox_pred, targets))
            return result

        return loss_and_record

    with ExitStack() as stack:
        for number, head in enumerate(stages_of(student)):
            stack.enter_context(replaced(head, "loss_and_target", recorder(number, head)))
        yield seen


def match_stages(owner: str, own: Sequence[BBoxHead], taught: Sequence[BBoxHead]) -> list[int]:
    """The number of the teacher's stage for each of the student's.

    Args:
        owner: The method, for messages.
        own: The student's stages.
        taught: The teacher's.

    Raises:
        UnsupportedError: they do not correspond.
    """
    stages = stage_numbers(owner, len(own), len(taught))
    for head, stage in zip(own, stages, strict=True):
        check_classifiers(head, taught[stage], owner)
    return stages


def stage_numbers(owner: str, own: int, taught: int) -> list[int]:
    """The number of the teacher's stage for each of the student's; see :func:`match_stages`.

    Args:
        owner: The method, for messages.
        own: How many stages the student's RoI head has.
        taught: How many the teacher's has.

    Raises:
        UnsupportedError: neither are they as many, nor has one of them a single stage.
    """
    if own != taught and 1 not in (own, taught):
        raise UnsupportedError(
            f"{owner}: the student's RoI head has {own} stages and the teacher's {taught}; give both as "
            "many, or one of them a single stage."
        )
    # A single stage learns from the teacher's first, which was trained on an RPN's proposals as it is.
    return [min(stage, taught - 1) for stage in range(own)]


def pooled_module(model: BaseDetector) -> str:
    """Name of the module whose maps a detector's RoI head pools."""
    return "neck" if hasattr(model, "neck") else "backbone"


def zero_of_stage(roi_head: BaseRoIHead, number: int, features: Sequence[Tensor]) -> Tensor:
    """0, with a gradient of 0 for a stage without proposals, its mask head too.

    Args:
        roi_head: The student's.
        number: Of the stage.
        features: The maps that it pools.
    """
    rois = features[0].new_zeros(0, 5)
    parts = [*forward_stage(roi_head, number, features, rois)]
    if roi_head.with_mask:
        parts.append(forward_masks(roi_head, number, features, rois))
    return sum((part.sum() for part in parts), start=rois.new_zeros(()))
