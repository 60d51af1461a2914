"""Base of distillation of dense heads, and checks that predictions correspond prior by prior."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lad.errors import UnsupportedError
from lad.exchange.labels import WORKS_WITH as LABELS_WORK_WITH
from lad.exchange.labels import DenseLabels, LabelReader, can_read_labels, reading_labels
from lad.exchange.seams import check_same_priors
from lad.heads.dense import flatten_levels
from lad.methods.base import DistillationMethod, Step
from lad.networks.routes import Teacher

import torch
from mmdet.models.dense_heads import (
    ATSSHead,
    DDODHead,
    FCOSHead,
    GFLHead,
    RetinaHead,
    RetinaSepBNHead,
    YOLOXHead,
)
from mmdet.models.dense_heads.atss_vlfusion_head import ATSSVLFusionHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import BaseDetector
from mmdet.models.losses import GIoULoss, IoULoss
from mmdet.models.task_modules.coders import DistancePointBBoxCoder
from torch import Tensor, nn

#: Heads whose first output are the class scores of each level; their subclasses with them.
HEADS = (RetinaHead, RetinaSepBNHead, ATSSHead, GFLHead, FCOSHead, DDODHead, YOLOXHead)
#: Box losses that do not change when a box's width and height are scaled, each by its own factor, with its prior's.
SCALE_FREE = (IoULoss, GIoULoss)
#: For messages.
WORKS_WITH = (
    "RetinaNet, FCOS, ATSS, PAA, GFL, VFNet, TOOD, DDOD, RTMDet and YOLOX heads; for two-stage detectors "
    "there is RoILogitDistillation"
)


class DenseDistillation(DistillationMethod):
    """A method on dense heads that reads the labels on which the student's head trains in a step."""

    teacher_modules: tuple[str, ...] = ("bbox_head",)
    student_modules: tuple[str, ...] = ("bbox_head",)

    def check_without_labels(self, student: BaseDetector) -> None:
        """Refused: the labels are those of the student's own loss."""
        raise UnsupportedError(
            f"student_loss=False: {type(self).__name__} needs the labels of the student's own loss; without labels "
            "SoftLabelDistillation trains a PAA head, RPNDistillation with RCNNDistillation a Faster R-CNN."
        )

    @contextmanager
    def observe(self, step: Step) -> Iterator[None]:
        """Record the labels of the student's own loss."""
        with reading_labels(step.student.bbox_head) as reader:
            step.observations[self] = reader
            yield

    def labels(self, step: Step) -> DenseLabels:
        """The labels of the batch that the student has just trained on."""
        return labels_of(step.student.bbox_head, step.outputs["bbox_head"], step.observations[self])

    def heads(self, student: BaseDetector, teacher: Teacher) -> list[Any]:
        """The heads of the two, None where there is none."""
        return [getattr(model, "bbox_head", None) for model in (student, teacher.model)]


def has_class_scores(head: BaseDenseHead | None) -> bool:
    """Whether a head's outputs begin with the class scores of its priors."""
    return isinstance(head, HEADS) and not isinstance(head, ATSSVLFusionHead)


def labels_of(head: BaseDenseHead, outputs: Sequence[Any], reader: LabelReader) -> DenseLabels:
    """The labels of a batch that a head has just trained on.

    Args:
        head: The head.
        outputs: What its ``forward`` returned.
        reader: What has recorded its loss.
    """
    return reader.labels(len(outputs[0][0]), level_counts(head, outputs[0]))


def prior_count(head: BaseDenseHead, outputs: Sequence[Any]) -> int:
    """Number of priors of an image, from what a head's ``forward`` returned."""
    return sum(level_counts(head, outputs[0]))


def level_counts(head: BaseDenseHead, cls_scores: Sequence[Tensor]) -> list[int]:
    """Number of priors of each level, from the head's class scores."""
    return [level[0].numel() // head.cls_out_channels for level in cls_scores]


@torch.no_grad()
def best_probability(logits: Tensor, use_sigmoid: bool) -> Tensor:
    """(...) largest class probability of (..., C) logits; of softmax classifiers the last channel is the background."""
    logits = logits.float()
    if use_sigmoid:
        return logits.amax(dim=-1).sigmoid()
    return logits.softmax(dim=-1)[..., :-1].amax(dim=-1)


def default_logit_loss(head: Any) -> dict:
    """Config of the loss of logits for networks that learn together, by a dense head's classifier.

    Sigmoid classifiers of dense heads are trained with focal losses, in which background counts next to nothing;
    ``QualityKDLoss`` weighs likewise. ``KDLoss`` for softmax.
    """
    return dict(type="QualityKDLoss" if getattr(head, "use_sigmoid_cls", False) else "KDLoss")


def check_dense_heads(owner: str, heads: Sequence[Any], models: Sequence[BaseDetector]) -> None:
    """Refuse a student's and a teacher's heads whose class scores do not correspond prior by prior.

    Args:
        owner: The method, for messages.
        heads: The student's and the teacher's.
        models: Whose they are.

    Raises:
        UnsupportedError: names both sides and what differs.
    """
    check_fit(owner, heads, models, has_class_scores, WORKS_WITH)
    kinds = ["sigmoid" if head.use_sigmoid_cls else "softmax" for head in heads]
    if kinds[0] != kinds[1]:
        raise UnsupportedError(
            f"{owner}: the student's classifier is {kinds[0]} and the teacher's {kinds[1]}: their probabilities do "
            "not correspond; set the same loss_cls in both."
        )
    check_corresponding_priors(owner, heads)


def check_fit(
    owner: str,
    heads: Sequence[nn.Module | None],
    models: Sequence[BaseDetector],
    fits: Callable[[nn.Module | None], bool],
    works_with: str,
) -> None:
    """Refuse heads of another kind.

    Raises:
        UnsupportedError: names the detector, its head and what works.
    """
    for role, head, model in zip(("student", "teacher"), heads, models, strict=True):
        if not fits(head):
            kind = "no bbox_head" if head is None else type(head).__name__
            raise UnsupportedError(
                f"{owner} does not fit {role} {type(model).__name__} ({kind}); it works with {works_with}."
            )


def check_labels_known(owner: str, head: BaseDenseHead) -> None:
    """Refuse a student's head whose labels cannot be read.

    Raises:
        UnsupportedError: names the head and what works.
    """
    if not can_read_labels(head):
        raise UnsupportedError(
            f"{owner}: which labels the student's {type(head).__name__} trains on cannot be read, its loss is its own; "
            f"it works with students with {LABELS_WORK_WITH}."
        )


def check_same_count(owner: str, student: int, teacher: int) -> None:
    """Refuse other numbers of priors of an image.

    Raises:
        UnsupportedError: names both.
    """
    if student != teacher:
        raise UnsupportedError(
            f"{owner}: the student has {student} priors for this batch and the teacher {teacher}: "
            "their feature maps differ in size; give both the same strides."
        )


def check_corresponding_priors(owner: str, heads: Sequence[BaseDenseHead]) -> None:
    """Refuse heads with other strides, anchors or points.

    Raises:
        UnsupportedError: names what differs.
    """
    try:
        check_same_priors(heads[0].prior_generator, heads[1].prior_generator)
    except UnsupportedError as error:
        raise UnsupportedError(f"{owner} compares two heads prior by prior, and {error}") from error


def boxes_about_origin(head: BaseDenseHead, levels: Sequence[Tensor]) -> Tensor:
    """(n, 4) boxes of what a head predicts, each in the coordinates of its own prior, float32.

    For :data:`SCALE_FREE` losses, which are ratios of areas and the same in pixels and in units of a prior: the anchor
    becomes the unit square around the origin, the point the origin. An anchor that is no square is stretched by that,
    so distances and aspect ratios (DIoU, CIoU, L1) are other ones.

    Args:
        head: One with deltas of anchors, distances of points, or GFL's distributions of distances.
        levels: (N, A * channels, H, W) of each level, as the head returns them.
    """
    if isinstance(head, GFLHead):
        distances = flatten_levels(levels, 4 * (head.reg_max + 1)).flatten(0, 1)
        deltas = head.integral(distances.float())
    else:
        deltas = flatten_levels(levels, 4).flatten(0, 1).float()
    if isinstance(head.bbox_coder, DistancePointBBoxCoder):
        priors = deltas.new_zeros(len(deltas), 2)
    else:
        half = deltas.new_full((len(deltas), 2), 0.5)
        priors = torch.cat([-half, half], dim=1)
    return head.bbox_coder.decode(priors, deltas)
