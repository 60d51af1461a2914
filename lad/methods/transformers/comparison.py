"""Compare a student's answers to queries with a teacher's: classes and boxes, weighted by foreground."""

from __future__ import annotations

from dataclasses import dataclass

from lad.errors import ConfigError
from lad.exchange.seams.detr import pixel_bboxes
from lad.losses import FocalKLLoss
from lad.methods.response.dense import best_probability
from lad.methods.response.logits import build_binary_loss
from lad.methods.roi.two_stage import averaged_over_ranks
from lad.methods.transformers.decoding import Answers

import torch
from mmdet.models.losses import CIoULoss, DIoULoss, GIoULoss, IoULoss, L1Loss, SmoothL1Loss
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from torch import Tensor, nn

#: Losses of boxes as numbers, and of overlaps.
DISTANCES = (L1Loss, SmoothL1Loss)
OVERLAPS = (GIoULoss, IoULoss, DIoULoss, CIoULoss)


@dataclass(frozen=True)
class AnswerLosses:
    """Losses of one query each, before they are weighted.

    Attributes:
        cls: Of class logits (n, C), such as ``KDLoss`` or ``FocalKLLoss``.
        bbox: Of boxes cxcywh relative to the image.
        iou: Of boxes xyxy in pixels.
    """

    cls: nn.Module
    bbox: nn.Module
    iou: nn.Module


def build_answer_losses(owner: str, cls: dict, bbox: dict, iou: dict) -> AnswerLosses:
    """Build the three losses from their configs.

    Raises:
        ConfigError: one is nothing of the registry, or no such loss.
        UnsupportedError: the class loss needs labels, or compares something else.
    """
    for name, config in dict(loss_cls=cls, loss_bbox=bbox, loss_iou=iou).items():
        # Without a type the losses of boxes name their choice below.
        if not isinstance(config, dict) or (name == "loss_cls" and "type" not in config):
            raise ConfigError(f"{owner}: {name} must be dict(type=..., ...), got {config!r:.60}.")
    kind = MODELS.get(cls["type"]) if isinstance(cls["type"], str) else cls["type"]
    # Its elements are single classes, those of others whole samples.
    built = (
        MODELS.build(cls)
        if kind is FocalKLLoss
        else build_binary_loss(owner, cls, "shared queries have none", "KDLoss, FocalKLLoss or QualityKDLoss")
    )
    boxes = []
    for name, config, kinds in (("loss_bbox", bbox, DISTANCES), ("loss_iou", iou, OVERLAPS)):
        kind = MODELS.get(config["type"]) if isinstance(config.get("type"), str) else config.get("type")
        if kind not in kinds:
            choice = ", ".join(one.__name__ for one in kinds)
            raise ConfigError(f"{owner}: {name} must be one of {choice}, got {config.get('type')!r:.60}.")
        boxes.append(MODELS.build(config))
    return AnswerLosses(built, *boxes)


def foreground(logits: Tensor, min_score: float = 0.0) -> Tensor:
    """(n,) weights of n queries with (n, C) logits of a teacher: the largest class probability, 0 below a score."""
    score = best_probability(logits, use_sigmoid=True)
    return score * (score >= min_score)


def compare_answers(
    losses: AnswerLosses,
    student: Answers,
    teacher: Answers,
    samples: SampleList,
    min_score: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The losses of classes, boxes and overlaps: sums over layers of means over queries, weighted by foreground.

    The weight of a query is w = max over classes of the teacher's probability in its last layer, and each loss is
    sum over layers and queries of w times the query's loss, over the sum of w of all queries.

    Args:
        losses: What is compared how.
        student: (L, N, Q, ...) the student's answers.
        teacher: (L, N, Q, ...) the teacher's, of the layers that are paired with the student's, its classes the
            student's; no gradient flows.
        samples: Sizes of the N images.
        min_score: Queries of a smaller weight have none.

    Returns:
        Three scalars.
    """
    num_layers = len(student.cls_scores)
    own, taught = (
        scores.flatten(0, 2).float() for scores in (student.cls_scores, teacher.cls_scores.detach())
    )
    weight = foreground(taught.unflatten(0, (num_layers, -1))[-1], min_score)
    (total,) = averaged_over_ranks(weight.sum(), like=weight)
    weight = weight.repeat(num_layers) / total

    def mean(loss: nn.Module, pred: Tensor, target: Tensor) -> Tensor:
        # Without a weight: with one, MMDetection's losses ask the device whether there is any.
        elements = loss(pred, target, reduction_override="none")
        return (elements.reshape(len(weight), -1).sum(dim=1) * weight).sum()

    boxes = [answers.bbox_preds.float() for answers in (student, teacher)]
    boxes[1] = boxes[1].detach()
    shapes = [sample.img_shape for sample in samples]
    pixels = pixel_bboxes(torch.cat(boxes), shapes).flatten(1, 2).chunk(2)
    return (
        mean(losses.cls, own, taught),
        mean(losses.bbox, *(each.flatten(0, 2) for each in boxes)),
        mean(losses.iou, *(each.flatten(0, 1) for each in pixels)),
    )
