"""Distillation of a region proposal network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.exchange.seams import check_same_priors
from lad.heads.dense import flatten_levels
from lad.losses import binary_soft_cross_entropy
from lad.methods.base import Step
from lad.methods.roi.two_stage import (
    DeltaConversion,
    TwoStageDistillation,
    averaged_over_ranks,
    bounded_part,
    imitated_part,
    scale_hard,
    target_deltas,
)
from lad.networks.routes import Teacher

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import BaseDetector, TwoStageDetector
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.registry import MODELS
from mmdet.structures.bbox import cat_boxes, get_box_tensor
from torch import Tensor


@dataclass(frozen=True)
class RPNPredictions:
    """Predictions of an RPN for the N * A anchors of a batch: by image, then by level, position and anchor.

    Attributes:
        objectness: (N * A,) logits.
        deltas: (N * A, 4) boxes.
        num_images: N.
    """

    objectness: Tensor
    deltas: Tensor
    num_images: int

    @classmethod
    def from_levels(cls, head: RPNHead, cls_scores: list[Tensor], bbox_preds: list[Tensor]) -> RPNPredictions:
        """Flatten what ``head.forward`` returned, (N, A * channels, H, W) a level."""
        scores = flatten_levels(cls_scores, head.cls_out_channels).flatten(0, 1)
        # softmax of (object, background) is the sigmoid of their difference.
        objectness = scores[:, 0] if head.cls_out_channels == 1 else scores[:, 0] - scores[:, 1]
        return cls(objectness, flatten_levels(bbox_preds, 4).flatten(0, 1), len(cls_scores[0]))

    def at(self, index: Tensor) -> RPNPredictions:
        """Those at (N, K) numbers of anchors within their images."""

        def gather(values: Tensor) -> Tensor:
            values = values.view(self.num_images, -1, *values.shape[1:])
            places = index.view(*index.shape, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:])
            return values.gather(1, places).flatten(0, 1)

        return RPNPredictions(gather(self.objectness), gather(self.deltas), self.num_images)


@dataclass(frozen=True)
class RPNTargets:
    """Targets of the student's RPN for its N * A anchors.

    Attributes:
        label_weights: (N * A,), 0 where an anchor was not sampled.
        bbox_targets: (N * A, 4), deltas or boxes as the head regresses them.
        bbox_weights: (N * A,), 0 where an anchor is no positive.
        avg_factor: MMDetection's normaliser of both losses.
        anchors: (N * A, 4), for a head that regresses decoded boxes; otherwise None.
    """

    label_weights: Tensor
    bbox_targets: Tensor
    bbox_weights: Tensor
    avg_factor: int
    anchors: Tensor | None


@MODELS.register_module()
class RPNDistillation(TwoStageDistillation):
    """Soft objectness and teacher-bounded boxes on the anchors that the student samples.

    Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation", NIPS 2017, Eq. 2 to 4:
    L_cls = mu L_hard + (1 - mu) L_soft and L_reg = L_1 + nu L_b, added as L_cls + lambda L_reg. L_hard and L_1 are the
    student's own losses; the soft loss weights the background, which is the complement of the objectness, and carries
    the ``loss_weight`` of the head's ``loss_cls`` as the hard one does.

    Of several processes each divides its hard losses by its own number of sampled anchors, as MMDetection does, and its
    soft and bounded ones by the average number of all. Where samplers fill their ``num``, as usual, these are the same
    number, and mu and 1 - mu weigh as in one process.

    Without the student's own loss (ours, not the paper's) anchors are sampled where the teacher sees objects and where
    it does not, and its boxes take the place of labels.

    Args:
        mu: Weight of the hard classification loss; the soft one has 1 - mu.
        nu: Weight of the bounded loss beside the box loss.
        margin: m of the bounded loss, in squared deltas. The paper gives no value.
        reg_weight: lambda, for the box loss and the bounded one; the paper's 1.
        background_weight: w of the background; objects have 1.
        temperature: T of the soft loss.
        rescale: Multiply the soft loss by T^2.
        init_cfg: As in MMEngine.
    """

    teacher_modules = ("rpn_head",)
    student_modules = ("rpn_head",)
    compares_classes = False
    compares_units = ("rpn_head",)
    trains = ("rpn_head",)
    steers = ("rpn_head",)

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Refuse RPNs whose predictions do not correspond anchor by anchor."""
        heads: list[Any] = [getattr(model, "rpn_head", None) for model in (student, teacher.model)]
        for role, model, head in zip(("student", "teacher"), (student, teacher.model), heads, strict=True):
            if (
                role == "student"
                and type(model).loss is not TwoStageDetector.loss
                and hasattr(model, "roi_head")
            ):
                raise UnsupportedError(
                    f"RPNDistillation does not fit student {type(model).__name__} (a loss of its own); it works with "
                    "detectors that train as Faster R-CNN does."
                )
            # A subclass with losses of its own has other targets than the anchors'.
            if not isinstance(head, RPNHead) or type(head).loss_by_feat is not RPNHead.loss_by_feat:
                kind = "no rpn_head" if head is None else type(head).__name__
                raise UnsupportedError(
                    f"RPNDistillation does not fit {role} {type(model).__name__} ({kind}); it works with RPNHead."
                )
        try:
            check_same_priors(heads[0].prior_generator, heads[1].prior_generator)
        except UnsupportedError as error:
            raise UnsupportedError(
                f"RPNDistillation compares two RPNs anchor by anchor, and {error} Or leave RPNDistillation out: "
                "HintDistillation and RCNNDistillation work with any anchors."
            ) from error
        self.to_student = DeltaConversion(heads[1].bbox_coder, heads[0].bbox_coder, "RPNDistillation")

    @contextmanager
    def observe(self, step: Step) -> Iterator[None]:
        """Record the targets of the student's own loss."""
        head = step.student.rpn_head
        get_targets = head.get_targets

        def get_targets_and_record(anchors: list, *args: Any, **kwargs: Any) -> tuple:
            targets = get_targets(anchors, *args, **kwargs)
            _, label_weights, bbox_targets, bbox_weights = (torch.cat(part, 1) for part in targets[:4])
            flat = torch.cat([_flat(levels) for levels in anchors]) if head.reg_decoded_bbox else None
            step.observations[self] = RPNTargets(
                label_weights.flatten(),
                bbox_targets.flatten(0, 1),
                bbox_weights.flatten(0, 1)[:, 0],
                targets[4],
                flat,
            )
            return targets

        with replaced(head, "get_targets", get_targets_and_record):
            yield

    def steer(self, step: Step) -> AbstractContextManager:
        """Scale the student's own loss by mu and lambda."""
        head = step.student.rpn_head
        loss_by_feat = head.loss_by_feat

        def scaled_loss(*args: Any, **kwargs: Any) -> dict:
            return scale_hard(loss_by_feat(*args, **kwargs), self.mu, self.reg_weight)

        return replaced(head, "loss_by_feat", scaled_loss)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """``loss_rpn_cls_soft`` with ``loss_rpn_bbox_bounded``, or ``loss_rpn_bbox_soft`` without labels."""
        head, outputs = step.student.rpn_head, step.outputs["rpn_head"]
        student = RPNPredictions.from_levels(head, *outputs)
        [taught] = step.teacher.target("rpn_head")
        teacher = RPNPredictions.from_levels(step.teacher.model.rpn_head, *taught)
        if len(teacher.objectness) != len(student.objectness):
            raise UnsupportedError(
                f"RPNDistillation: the student's RPN has {len(student.objectness)} anchors for this batch and the "
                f"teacher's {len(teacher.objectness)}: their feature maps differ in size; give both the same strides."
            )
        if not step.student_loss:
            sizes = [level.shape[-2:] for level in outputs[0]]
            metas = [sample.metainfo for sample in step.data_samples]
            levels, flags = head.get_anchors(sizes, metas, device=student.deltas.device)
            anchors = torch.cat([_flat(image) for image in levels])
            valid = torch.stack([torch.cat(image) for image in flags])
            return self.losses_without_labels(head, student, teacher, anchors, valid)
        return self.losses_with_labels(head, student, teacher, step.observations[self])

    def losses_with_labels(
        self, head: RPNHead, student: RPNPredictions, teacher: RPNPredictions, targets: RPNTargets
    ) -> dict[str, Tensor]:
        """Soft and bounded part on the sampled anchors; all anchors are computed, so that nothing waits for a count."""
        [avg_factor] = averaged_over_ranks(targets.avg_factor, like=student.deltas)
        bounded = bounded_part(
            student.deltas,
            self.to_student(teacher.deltas),
            target_deltas(head, targets.anchors, targets.bbox_targets),
            targets.bbox_weights,
            avg_factor,
            self.margin,
        )
        soft = self.soft_part(head, student.objectness, teacher.objectness, targets.label_weights, avg_factor)
        return dict(loss_rpn_cls_soft=soft, loss_rpn_bbox_bounded=self.reg_weight * self.nu * bounded)

    def losses_without_labels(
        self,
        head: RPNHead,
        student: RPNPredictions,
        teacher: RPNPredictions,
        anchors: Tensor,
        valid: Tensor,
    ) -> dict[str, Tensor]:
        """Soft part and imitated boxes on anchors that the teacher samples; ``valid`` is (N, A)."""
        sampler = head.train_cfg.get("sampler") or {}
        scores = teacher.objectness.float().sigmoid().view(student.num_images, -1)
        index, weight, objects = sample_by_teacher(
            scores, valid, sampler.get("num", 256), sampler.get("pos_fraction", 0.5)
        )
        places = index + torch.arange(len(index), device=index.device)[:, None] * valid.shape[1]
        student, teacher = student.at(index), teacher.at(index)
        [avg_factor] = averaged_over_ranks(weight.sum(), like=weight)
        boxes = imitated_part(
            head,
            anchors[places.flatten()],
            student.deltas,
            self.to_student(teacher.deltas),
            objects.flatten(),
            avg_factor,
            self.nu,
        )
        soft = self.soft_part(head, student.objectness, teacher.objectness, weight.flatten(), avg_factor)
        return dict(loss_rpn_cls_soft=soft, loss_rpn_bbox_soft=self.reg_weight * boxes)

    def soft_part(
        self, head: RPNHead, student: Tensor, teacher: Tensor, weight: Tensor, avg_factor: Tensor
    ) -> Tensor:
        """(1 - mu) L_soft of logits of the same shape, on the same footing as the head's own loss."""
        loss = binary_soft_cross_entropy(
            student, teacher, 1.0, self.background_weight, self.temperature, self.rescale
        )
        factor = (1 - self.mu) * head.loss_cls.loss_weight
        return factor * weight_reduce_loss(loss, weight, avg_factor=avg_factor)


def _flat(levels: list) -> Tensor:
    return get_box_tensor(cat_boxes(levels))


def sample_by_teacher(
    scores: Tensor, valid: Tensor, num: int, pos_fraction: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A random sample of anchors as an RPN's sampler would take it, with the teacher's objects for the positives.

    At most ``num * pos_fraction`` of an image's anchors with a score of at least 0.5, and others up to ``num``
    together. Nothing waits for a count: the result has a fixed size, and weights mark what belongs to it.

    Args:
        scores: (N, A) the teacher's objectness.
        valid: (N, A) bool, anchors within the image.
        num: Anchors of an image.
        pos_fraction: Largest part of them that are objects.

    Returns:
        (N, K) int64 numbers of anchors within their image; (N, K) float32, 1 where one belongs to the sample; (N, K)
        float32, 1 where it is one of the teacher's objects.
    """
    anchors = scores.shape[1]
    num_pos, num = min(int(num * pos_fraction), anchors), min(num, anchors)
    order = torch.rand_like(scores)
    objects = (scores >= 0.5) & valid
    pos_order, pos_index = order.masked_fill(~objects, -1).topk(num_pos, dim=1)
    neg_order, neg_index = order.masked_fill(objects | ~valid, -1).topk(num, dim=1)
    pos = pos_order >= 0
    wanted = num - pos.sum(dim=1, keepdim=True)
    neg = (neg_order >= 0) & (torch.arange(num, device=scores.device) < wanted)
    index = torch.cat([pos_index, neg_index], dim=1)
    return index, torch.cat([pos, neg], dim=1).float(), torch.cat([pos, torch.zeros_like(neg)], dim=1).float()
