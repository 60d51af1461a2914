"""Distillation of a RoI head: the teacher scores the student's own proposals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from lad.assignment.replay import replaced
from lad.errors import ConfigError, UnsupportedError
from lad.losses import binary_soft_cross_entropy, soft_cross_entropy
from lad.methods.base import Step
from lad.methods.roi_heads import (
    channels_of,
    check_classifiers,
    check_roi_head,
    forward_stage,
    is_sigmoid,
    of_class,
    score_rois,
    stages_of,
)
from lad.methods.two_stage import (
    ClassMapping,
    DeltaConversion,
    TwoStageDistillation,
    bounded_part,
    imitated_part,
    scale_hard,
    target_deltas,
)
from lad.teacher import FrozenTeacher

import torch
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox2roi
from mmengine.model import ModuleList
from torch import Tensor, nn


@dataclass(frozen=True)
class StageOutputs:
    """What one stage of a RoI head says of n proposals.

    Attributes:
        number: Of the stage, from 0.
        rois: (n, 5) image number and box.
        cls_score: (n, channels) logits.
        bbox_pred: (n, 4) or (n, 4 C) deltas.
        targets: What the student is to learn of them; None without labels.
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


@MODELS.register_module()
class RCNNDistillation(TwoStageDistillation):
    """Soft classes and teacher-bounded boxes on the proposals that the student samples.

    Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation", NIPS 2017, Eq. 2 to 4:
    L_cls = mu L_hard + (1 - mu) L_soft and L_reg = L_1 + nu L_b, added as L_cls + lambda L_reg. L_hard and L_1 are the
    student's own losses; for the others the teacher's RoI head scores the student's proposals on the teacher's
    features. The soft loss carries the ``loss_weight`` of the head's ``loss_cls`` as the hard one does. A Cascade R-CNN
    is taught stage by stage, with its own stage weights.

    Without the student's own loss (ours, not the paper's) the proposals are the best of the student's RPN, and where
    the teacher sees an object its class and box take the place of labels in the box loss.

    Args:
        mu: Weight of the hard classification loss; the soft one has 1 - mu.
        nu: Weight of the bounded loss beside the box loss.
        margin: m of the bounded loss, in squared deltas. The paper gives no value.
        reg_weight: lambda, for the box loss and the bounded one; the paper's 1.
        background_weight: w of the background; the other classes have 1.
        temperature: T of the soft loss.
        rescale: Multiply the soft loss by T^2.
        classes: The student's class names, in its order, where the teacher's are others or in another order: they are
            looked up by name in the teacher's checkpoint, and classes that the student does not have are background.
        init_cfg: As in MMEngine.
    """

    trains = ("roi_head",)

    def __init__(self, *args: Any, classes: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.classes = tuple(classes) if classes is not None else None

    def bind(self, student: nn.Module, teacher: FrozenTeacher) -> None:
        """Refuse RoI heads that cannot be compared; find the teacher's classes and units."""
        check_roi_head("student", student)
        check_roi_head("teacher", teacher.model)
        own, taught = stages_of(student), stages_of(teacher.model)
        if len(own) != len(taught) and 1 not in (len(own), len(taught)):
            raise UnsupportedError(
                f"RCNNDistillation: the student's RoI head has {len(own)} stages and the teacher's {len(taught)}; give "
                "both as many, or one of them a single stage."
            )
        # A single stage learns from the teacher's first, which was trained on an RPN's proposals as it is.
        self.teacher_stage = [min(stage, len(taught) - 1) for stage in range(len(own))]
        pairs = [(head, taught[stage]) for head, stage in zip(own, self.teacher_stage, strict=True)]
        for head, other in pairs:
            check_classifiers(head, other)
        self.to_student = ModuleList(
            DeltaConversion(other.bbox_coder, head.bbox_coder, "RCNNDistillation") for head, other in pairs
        )
        self.mapping = self._find_classes(own[0].num_classes, taught[0].num_classes, teacher)
        explicit = is_sigmoid(own[0]) and channels_of(own[0]) > own[0].num_classes
        if explicit and not self.mapping.is_identity:
            raise UnsupportedError(
                "RCNNDistillation: classes cannot be mapped between sigmoid classifiers with a channel for the "
                "background; use softmax, or CrossEntropyCustomLoss."
            )
        self.teacher_features = "neck" if hasattr(teacher.model, "neck") else "backbone"
        self.teacher_modules = (self.teacher_features,)
        self.student_features = "neck" if hasattr(student, "neck") else "backbone"
        self.student_modules = (self.student_features, "rpn_head")
        if not hasattr(student, "rpn_head"):
            self.student_modules = (self.student_features,)

    def _find_classes(self, num_classes: int, num_taught: int, teacher: FrozenTeacher) -> ClassMapping:
        if self.classes is None:
            if num_classes != num_taught:
                raise UnsupportedError(
                    f"RCNNDistillation: the student has {num_classes} classes and the teacher {num_taught}; name the "
                    "student's classes (classes=...) to find them among the teacher's."
                )
            names = [str(number) for number in range(num_classes)]
            return ClassMapping(names, names)
        if len(self.classes) != num_classes:
            raise ConfigError(
                f"RCNNDistillation: classes names {len(self.classes)} and the student has {num_classes}; name all of "
                "the student's classes in its order."
            )
        if teacher.classes is None or len(teacher.classes) != num_taught:
            known = "none" if teacher.classes is None else f"{len(teacher.classes)} for {num_taught} classes"
            raise ConfigError(
                f"RCNNDistillation: classes are looked up by name, but the teacher's checkpoint records {known}; leave "
                "out classes, or write its dataset_meta."
            )
        return ClassMapping(self.classes, list(teacher.classes))

    def check_without_labels(self, student: nn.Module) -> None:
        """Only the box branch learns from the teacher, and proposals come from the student's RPN."""
        if getattr(student.roi_head, "with_mask", False) or not hasattr(student, "rpn_head"):
            lacking = (
                "has no RPN" if not hasattr(student, "rpn_head") else "has a mask head, which needs labels"
            )
            raise UnsupportedError(
                f"student_loss=False: {type(student).__name__} {lacking}; RCNNDistillation then works with detectors "
                "such as Faster R-CNN and Cascade R-CNN."
            )

    def steer(self, step: Step) -> AbstractContextManager:
        """The student's own loss, scaled, with proposals, predictions and targets of each stage written down."""
        return self._listen(step)

    @contextmanager
    def _listen(self, step: Step) -> Iterator[None]:
        seen = step.notes[self] = []

        def listener(number: int, head: BBoxHead) -> Callable[..., dict]:
            loss_and_target = head.loss_and_target

            def loss_and_note(
                cls_score: Tensor, bbox_pred: Tensor, rois: Tensor, *args: Any, **kw: Any
            ) -> dict:
                result = loss_and_target(cls_score, bbox_pred, rois, *args, **kw)
                targets = RoITargets(*result["bbox_targets"])
                seen.append(StageOutputs(number, rois, cls_score, bbox_pred, targets))
                hard = scale_hard(result["loss_bbox"], self.mu, self.reg_weight)
                return dict(result, loss_bbox=hard)

            return loss_and_note

        with ExitStack() as stack:
            for number, head in enumerate(stages_of(step.student)):
                stack.enter_context(replaced(head, "loss_and_target", listener(number, head)))
            yield

    def losses(self, step: Step) -> dict[str, Tensor]:
        """``loss_cls_soft`` with ``loss_bbox_bounded``, or ``loss_bbox_soft`` without labels; of each stage."""
        student = step.student
        is_cascade = isinstance(student.roi_head, CascadeRoIHead)
        seen = step.notes[self] if step.student_loss else self._run_without_labels(step)
        terms = {}
        for outputs in seen:
            number = outputs.number
            head = stages_of(student)[number]
            stage = self.teacher_stage[number]
            scores, boxes = step.teacher.ask(score_rois, self.teacher_features, stage, outputs.rois)
            losses = self.stage_losses(head, self.to_student[number], outputs, scores, boxes)
            weight = student.roi_head.stage_loss_weights[number] if is_cascade else 1.0
            prefix = f"s{number}." if is_cascade else ""
            terms |= {f"{prefix}{name}": weight * value for name, value in losses.items()}
        # MMDetection leaves a cascade when a stage has no proposal; DDP waits for the others' gradients all the same.
        for number in range(len(seen), len(self.teacher_stage)):
            terms[f"s{number}.loss_cls_soft"] = self._run_without_proposals(step, number)
        return terms

    def stage_losses(
        self,
        head: BBoxHead,
        to_student: DeltaConversion,
        outputs: StageOutputs,
        teacher_scores: Tensor,
        teacher_boxes: Tensor,
    ) -> dict[str, Tensor]:
        """The soft and the bounded part of one stage; no proposal is selected, so that nothing waits for a count.

        Args:
            head: The student's.
            to_student: From the units of the teacher's deltas.
            outputs: What the student said.
            teacher_scores: (n, channels) the teacher's logits.
            teacher_boxes: (n, 4) or (n, 4 C) the teacher's deltas.
        """
        count, classes = len(outputs.rois), head.num_classes
        sigmoid = is_sigmoid(head)
        scores = (
            self.mapping.binary_logits(teacher_scores)
            if sigmoid
            else self.mapping.logits(teacher_scores, self.temperature)
        )
        boxes = teacher_boxes.unflatten(1, (-1, 4))
        boxes = boxes if boxes.shape[1] == 1 else self.mapping.deltas(boxes)
        targets = outputs.targets
        if targets is None:
            # The class that the teacher sees, where it sees one: in a sigmoid classifier without a background at all
            # an object is what some class says yes to.
            background = scores[:, classes] if scores.shape[1] > classes else torch.zeros_like(scores[:, 0])
            best, labels = scores[:, :classes].max(dim=1)
            label_weights = scores.new_ones(count, dtype=torch.float32)
            box_weights = (best > background).float()
            avg_factor = label_weights.sum().clamp(min=1)
        else:
            labels, label_weights = targets.labels, targets.label_weights
            box_weights = targets.bbox_weights[:, 0] * (labels < classes)
            avg_factor = (label_weights > 0).sum().clamp(min=1)
        soft = weight_reduce_loss(
            self.soft_elements(head, outputs.cls_score, scores), label_weights, avg_factor=avg_factor
        )
        # On the same footing as the head's own loss.
        soft = (1 - self.mu) * head.loss_cls.loss_weight * soft
        student_deltas = of_class(outputs.bbox_pred.unflatten(1, (-1, 4)), labels)
        teacher_deltas = to_student(of_class(boxes, labels))
        priors = outputs.rois[:, 1:]
        if targets is None:
            loss = imitated_part(
                head, priors, student_deltas, teacher_deltas, box_weights, avg_factor, self.nu
            )
            return dict(loss_cls_soft=soft, loss_bbox_soft=self.reg_weight * loss)
        # As MMDetection's box loss: over all sampled proposals, not the positives alone.
        bounded = bounded_part(
            student_deltas,
            teacher_deltas,
            target_deltas(head, priors, targets.bbox_targets),
            box_weights,
            count,
            self.margin,
        )
        return dict(loss_cls_soft=soft, loss_bbox_bounded=self.reg_weight * self.nu * bounded)

    def soft_elements(self, head: BBoxHead, student: Tensor, teacher: Tensor) -> Tensor:
        """(n,) L_soft of each proposal; the background's weight is on its channel, or on the complements of classes."""
        has_background = student.shape[1] > head.num_classes
        weights = student.new_ones(student.shape[1], dtype=torch.float32)
        if has_background:
            weights[-1] = self.background_weight
        if not is_sigmoid(head):
            return soft_cross_entropy(student, teacher, weights, self.temperature, self.rescale)
        complement = 1.0 if has_background else self.background_weight
        return binary_soft_cross_entropy(
            student, teacher, weights, complement, self.temperature, self.rescale
        ).sum(dim=1)

    def _student_features(self, step: Step) -> Sequence[Tensor]:
        return step.outputs[self.student_features]

    @torch.no_grad()
    def _proposals(self, step: Step) -> list[Tensor]:
        """The best proposals of the student's RPN, (num, 4) for each image; as many as its sampler takes."""
        train_cfg = step.student.train_cfg
        roi_cfg = train_cfg.rcnn
        # Some samplers take all; None leaves all that the RPN proposes.
        num = (roi_cfg[0] if isinstance(roi_cfg, (list, tuple)) else roi_cfg).sampler.get("num")
        proposal_cfg = train_cfg.get("rpn_proposal", step.student.test_cfg.rpn)  # as MMDetection does
        metas = [sample.metainfo for sample in step.data_samples]
        found = step.student.rpn_head.predict_by_feat(
            *step.outputs["rpn_head"], batch_img_metas=metas, cfg=proposal_cfg
        )
        return [proposals.bboxes[:num] for proposals in found]

    def _run_without_labels(self, step: Step) -> list[StageOutputs]:
        """Each stage of the student on its RPN's proposals, refined from stage to stage."""
        roi_head, features = step.student.roi_head, self._student_features(step)
        metas = [sample.metainfo for sample in step.data_samples]
        proposals = self._proposals(step)
        seen = []
        for number, head in enumerate(stages_of(step.student)):
            rois = bbox2roi(proposals)
            cls_score, bbox_pred = forward_stage(roi_head, number, features, rois)
            seen.append(StageOutputs(number, rois, cls_score, bbox_pred))
            if number + 1 < len(self.teacher_stage):
                counts = [len(boxes) for boxes in proposals]
                labels = cls_score[:, : head.num_classes].argmax(dim=1)
                parts = zip(
                    proposals, labels.split(counts), bbox_pred.detach().split(counts), metas, strict=True
                )
                # Image by image as MMDetection does it: each clips its boxes to its own size.
                proposals = [head.regress_by_class(*part) for part in parts]
        return seen

    def _run_without_proposals(self, step: Step, number: int) -> Tensor:
        """0, with a gradient of 0 for a stage of the student."""
        features = self._student_features(step)
        rois = features[0].new_zeros(0, 5)
        return sum(part.sum() for part in forward_stage(step.student.roi_head, number, features, rois))
