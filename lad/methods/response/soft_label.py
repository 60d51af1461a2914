"""Soft-label distillation of PAA heads: the teacher's class, box and IoU predictions as targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from lad.assignment.max_iou import MAX_OVERLAPS
from lad.assignment.priors import prior_grid
from lad.base.settings import check_numbers
from lad.errors import ConfigError, UnsupportedError
from lad.exchange.seams import check_same_priors, check_same_sizes
from lad.heads.dense import class_logits, flatten_levels, level_sizes
from lad.losses import focal_kl_loss
from lad.losses.precision import upcast
from lad.methods.base import DistillationMethod, Step
from lad.networks.routes import Teacher

import torch
from mmdet.models.dense_heads import PAAHead
from mmdet.models.detectors import BaseDetector
from mmdet.models.losses.iou_loss import giou_loss
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps
from mmdet.utils import reduce_mean
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

#: Where the weights of the anchors come from: their overlaps with ground truths, or the teacher's scores.
Weights = Literal["labels", "teacher"]


@MODELS.register_module()
class SoftLabelDistillation(DistillationMethod):
    """Focal KL on class logits, GIoU between boxes and focal KL on IoU logits, against the teacher's.

    The soft-label baseline of Nguyen et al., WACV 2022, arXiv 2108.10520. An anchor's weight w is the largest IoU of
    the teacher's decoded box there with a ground truth, where it exceeds ``min_iou``, else 0. With W the sum of w over
    the batch: L_cls = sum of the focal KL over all anchors and classes / W; L_box = sum of w (1 - GIoU(student,
    teacher)) / W; L_iou = sum of the focal KL of the IoU logits over anchors with w > 0 / W. W is at least the number
    of images, so that images without objects (or labels) teach their background. As in the authors' code the decoded
    boxes of both networks are clipped to their image first: beyond its border the student's get no gradient.

    Heads that predict class probabilities are compared by their logits. Where the student or the teacher has no IoU
    branch there is nothing to compare: L_iou is 0, and missing where the student has none.

    Together with :class:`LabelAssignmentDistillation` it is SoLAD.

    ``weights='teacher'`` needs no labels: w is the score by which the teacher ranks its detections, the square root of
    the best class probability times the predicted IoU (the former alone without an IoU branch), where it exceeds
    ``min_score``. So boxes are learnt on images without labels too. It is not of the paper.

    With a temperature T the class term compares logits / T and has the factor T^2, which keeps the size of gradients
    (Hinton et al., 2015, arXiv 1503.02531, Sec. 2); so distils SimCLRv2 (Chen et al., NeurIPS 2020, arXiv 2006.10029,
    Eq. 2) images without labels. The paper has none, which is T = 1.

    Args:
        cls_weight, box_weight, iou_weight: The paper's weights of the three terms.
        gamma: Exponent of the focal factor.
        min_iou: Least overlap with a ground truth for the box and IoU terms, for ``weights='labels'``.
        weights: Where the anchors' weights come from: ``'labels'`` or ``'teacher'``.
        min_score: Least score of the teacher for the box and IoU terms, for ``weights='teacher'``.
        temperature: Divides the class logits of both networks.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: ``weights`` is neither, or the temperature is not positive.
    """

    teacher_modules = ("bbox_head",)
    student_modules = ("bbox_head",)
    trains = ("bbox_head",)

    def __init__(
        self,
        cls_weight: float = 2.0,
        box_weight: float = 1.3,
        iou_weight: float = 10.0,
        gamma: float = 0.5,
        min_iou: float = 0.5,
        weights: Weights = "labels",
        min_score: float = 0.5,
        temperature: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        owner = "SoftLabelDistillation"
        check_numbers(
            owner, minimum=0, cls_weight=cls_weight, box_weight=box_weight, iou_weight=iou_weight, gamma=gamma
        )
        check_numbers(owner, minimum=0, maximum=1, min_iou=min_iou, min_score=min_score)
        check_numbers(owner, above=0, temperature=temperature)
        self.cls_weight = cls_weight
        self.box_weight = box_weight
        self.iou_weight = iou_weight
        self.gamma = gamma
        self.min_iou = min_iou
        if weights not in get_args(Weights):
            raise ConfigError(f"{owner}: weights must be 'labels' or 'teacher', got {weights!r}.")
        self.weights = weights
        self.min_score = min_score
        self.temperature = temperature

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Refuse heads whose predictions do not correspond anchor by anchor."""
        heads: list[Any] = [getattr(model, "bbox_head", None) for model in (student, teacher.model)]
        if not all(isinstance(head, PAAHead) for head in heads):
            pairs = zip((student, teacher.model), heads, strict=True)
            names = [f"{type(model).__name__} ({type(head).__name__})" for model, head in pairs]
            raise UnsupportedError(
                f"SoftLabelDistillation does not fit student {names[0]} with teacher {names[1]}: it compares class, "
                "box and IoU predictions of PAA heads; it works with PAAHead, BatchedPAAHead, PAACOPHead, PAAIOPHead."
            )
        if heads[0].num_classes != heads[1].num_classes:
            raise UnsupportedError(
                f"SoftLabelDistillation: the student has {heads[0].num_classes} classes and the teacher "
                f"{heads[1].num_classes}; set both num_classes alike."
            )
        check_same_priors(heads[0].prior_generator, heads[1].prior_generator)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """``loss_soft_cls``, ``loss_soft_bbox`` and ``loss_soft_iou``; gradients reach the student only.

        No ``loss_soft_iou`` without an IoU branch in the student.
        """
        outputs, taught = step.outputs["bbox_head"], step.teacher.outputs["bbox_head"]
        head, teacher_head = step.student.bbox_head, step.teacher.model.bbox_head
        check_same_sizes(
            "SoftLabelDistillation: the student",
            "the teacher",
            level_sizes(outputs[0]),
            level_sizes(taught[0]),
        )
        logits = class_logits(head, outputs).flatten(0, 1)
        teacher_logits = class_logits(teacher_head, taught).flatten(0, 1)
        deltas, teacher_deltas = (flatten_levels(own[1], 4).flatten(0, 1) for own in (outputs, taught))
        iou_logits, teacher_iou_logits = (
            None if own[2] is None else flatten_levels(own[2], 1).flatten(0, 1) for own in (outputs, taught)
        )
        num_images = len(outputs[0][0])
        sizes = [level.shape[-2:] for level in outputs[0]]
        grid = prior_grid(head.prior_generator, sizes, outputs[0][0].device)
        anchors = grid.anchors.repeat(num_images, 1)
        metas = [sample.metainfo for sample in step.data_samples]
        boxes = decode_within(head.bbox_coder, anchors, deltas, metas)
        with torch.no_grad():
            teacher_boxes = decode_within(teacher_head.bbox_coder, anchors, teacher_deltas, metas)
            inside = grid.inside(metas, allowed_border=-1).flatten()
            if self.weights == "labels":
                weight = self.overlaps(step, teacher_boxes) * inside
            else:
                weight = self.scores(teacher_logits, teacher_iou_logits) * inside
            total = reduce_mean(weight.sum()).clamp(min=num_images)
        own_soft, taught_soft = (upcast(each) / self.temperature for each in (logits, teacher_logits))
        loss_cls = self.temperature**2 * focal_kl_loss(own_soft, taught_soft, self.gamma)
        loss_box = giou_loss(boxes, teacher_boxes, reduction="none")
        losses = dict(
            loss_soft_cls=self.cls_weight * weight_reduce_loss(loss_cls, avg_factor=total),
            loss_soft_bbox=self.box_weight * weight_reduce_loss(loss_box, weight, avg_factor=total),
        )
        if iou_logits is not None and teacher_iou_logits is not None:
            loss_iou = focal_kl_loss(iou_logits, teacher_iou_logits, self.gamma)[:, 0]
            chosen = (weight > 0).to(weight.dtype)
            losses["loss_soft_iou"] = self.iou_weight * weight_reduce_loss(loss_iou, chosen, avg_factor=total)
        elif iou_logits is not None:
            # Keeps the student's branch in the graph, which DDP requires.
            losses["loss_soft_iou"] = iou_logits.sum() * 0
        return losses

    def overlaps(self, step: Step, boxes: Tensor) -> Tensor:
        """(N * P,) largest IoU of each box with a ground truth of its image where above ``min_iou``, else 0."""
        gt_bboxes = [sample.gt_instances.bboxes for sample in step.data_samples]
        most = max(map(len, gt_bboxes))
        if most == 0:
            return boxes.new_zeros(len(boxes))
        # Padded with boxes of no area, which overlap nothing. In parts where objects are very many: bounds the memory.
        padded = pad_sequence(gt_bboxes, batch_first=True)
        boxes = boxes.view(len(gt_bboxes), -1, 4)
        per_part = max(1, MAX_OVERLAPS // (most * boxes.shape[1]))
        parts = zip(boxes.split(per_part), padded.split(per_part), strict=True)
        best = torch.cat([bbox_overlaps(own, truth).amax(dim=2) for own, truth in parts])
        return (best * (best > self.min_iou)).flatten()

    def scores(self, logits: Tensor, iou_logits: Tensor | None) -> Tensor:
        """(n,) score of each anchor where above ``min_score``, else 0.

        Args:
            logits: (n, C) class logits.
            iou_logits: (n, 1); None without an IoU branch.
        """
        score = logits.float().amax(dim=1).sigmoid()
        if iou_logits is not None:
            score = (score * iou_logits.float()[:, 0].sigmoid()).sqrt()
        return score * (score > self.min_score)


def decode_within(
    coder: DeltaXYWHBBoxCoder, anchors: Tensor, deltas: Tensor, batch_img_metas: Sequence[dict]
) -> Tensor:
    """Decode the boxes of N images with P anchors each and clip them to their images, (N * P, 4) float32 in pixels.

    For all images at once; the coder itself clips to one image. A coder with ``clip_border=False`` does not clip, and
    nor does this.

    Args:
        coder: The head's.
        anchors: (N * P, 4).
        deltas: (N * P, 4), image by image.
        batch_img_metas: With ``img_shape`` (height, width) of each image.
    """
    boxes = coder.decode(anchors, deltas.float())
    if not coder.clip_border:
        return boxes
    shapes = [meta["img_shape"][:2] for meta in batch_img_metas]
    sizes = torch.tensor([[[width, height] * 2] for height, width in shapes], dtype=boxes.dtype)
    limits = sizes.to(boxes.device, non_blocking=True)  # (N, 1, 4)
    return boxes.view(len(shapes), -1, 4).clamp(torch.zeros_like(limits), limits).view(-1, 4)
