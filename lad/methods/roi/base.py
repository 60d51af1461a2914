"""Base of distillation of RoI heads: the teacher's RoI head scores the proposals that the student samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.methods.base import DistillationMethod, Step
from lad.methods.roi.heads import (
    channels_of,
    check_classifiers,
    check_roi_head,
    forward_masks,
    forward_stage,
    is_sigmoid,
    score_rois,
    stages_of,
)
from lad.methods.roi.two_stage import find_class_mapping
from lad.networks.routes import Teacher

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.structures.bbox import bbox2roi
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


class RoIDistillation(DistillationMethod):
    """A method that compares the student's RoI head with the teacher's on the student's own proposals.

    The teacher's RoI head scores them on the teacher's features. A Cascade R-CNN is taught stage by stage, with its own
    stage weights. A subclass computes the loss of a stage in :meth:`compare`.

    Args:
        classes: The student's class names, in its order, where the teacher's are others or in another order: they are
            looked up by name in the teacher's checkpoint, and classes that the student does not have are background.
        init_cfg: As in MMEngine.
    """

    #: Name of the loss that a stage without proposals keeps, with the value 0.
    stage_loss_name = "loss_cls_soft"
    compares_units = ("roi_head",)
    weighable = ("roi_head",)

    def __init__(self, classes: Sequence[str] | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.classes = tuple(classes) if classes is not None else None

    @abstractmethod
    def compare(
        self, head: BBoxHead, outputs: StageOutputs, teacher_scores: Tensor, teacher_boxes: Tensor
    ) -> dict[str, Tensor]:
        """The losses of one stage, by name.

        Args:
            head: The student's.
            outputs: The student's predictions.
            teacher_scores: (n, channels) the teacher's logits; several teachers' softmax has log-probabilities.
            teacher_boxes: (n, 4) or (n, 4 C) the teacher's deltas.
        """

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Refuse RoI heads that cannot be compared; find the teacher's classes."""
        owner = type(self).__name__
        check_roi_head("student", student, owner)
        check_roi_head("teacher", teacher.model, owner)
        own, taught = stages_of(student), stages_of(teacher.model)
        if len(own) != len(taught) and 1 not in (len(own), len(taught)):
            raise UnsupportedError(
                f"{owner}: the student's RoI head has {len(own)} stages and the teacher's {len(taught)}; give both as "
                "many, or one of them a single stage."
            )
        # A single stage learns from the teacher's first, which was trained on an RPN's proposals as it is.
        self.teacher_stage = [min(stage, len(taught) - 1) for stage in range(len(own))]
        for head, stage in zip(own, self.teacher_stage, strict=True):
            check_classifiers(head, taught[stage], owner)
        self.mapping = find_class_mapping(
            owner, self.classes, own[0].num_classes, taught[0].num_classes, teacher
        )
        explicit = is_sigmoid(own[0]) and channels_of(own[0]) > own[0].num_classes
        if explicit and not self.mapping.is_identity:
            raise UnsupportedError(
                f"{owner}: classes cannot be mapped between sigmoid classifiers with a channel for the background; "
                "use softmax, or CrossEntropyCustomLoss."
            )
        self.teacher_features = "neck" if hasattr(teacher.model, "neck") else "backbone"
        self.teacher_modules = (self.teacher_features,)
        self.student_features = "neck" if hasattr(student, "neck") else "backbone"
        self.student_modules = (self.student_features, "rpn_head")
        if not hasattr(student, "rpn_head"):
            self.student_modules = (self.student_features,)

    def taught_logits(self, head: BBoxHead, teacher_scores: Tensor, temperature: float = 1.0) -> Tensor:
        """The teacher's logits (n, channels) for the student's classes, at a temperature."""
        if is_sigmoid(head):
            return self.mapping.binary_logits(teacher_scores)
        return self.mapping.logits(teacher_scores, temperature)

    @contextmanager
    def observe(self, step: Step) -> Iterator[None]:
        """Record proposals, predictions and targets of each stage of the student's own loss."""
        seen = step.observations[self] = []

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
            for number, head in enumerate(stages_of(step.student)):
                stack.enter_context(replaced(head, "loss_and_target", recorder(number, head)))
            yield

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The losses of :meth:`compare` of each stage."""
        student = step.student
        is_cascade = isinstance(student.roi_head, CascadeRoIHead)
        seen = step.observations[self] if step.student_loss else self._run_without_labels(step)
        terms: dict[str, Tensor] = {}
        for outputs in seen:
            number = outputs.number
            head = stages_of(student)[number]
            stage = self.teacher_stage[number]
            scores, boxes = step.teacher.evaluate(
                score_rois, self.teacher_features, stage, outputs.rois, step.teacher.is_ensemble
            )
            losses = self.compare(head, outputs, scores, boxes)
            weight = student.roi_head.stage_loss_weights[number] if is_cascade else 1.0
            prefix = f"s{number}." if is_cascade else ""
            terms |= {f"{prefix}{name}": weight * value for name, value in losses.items()}
        # MMDetection leaves a cascade when a stage has no proposal; DDP waits for the others' gradients all the same.
        for number in range(len(seen), len(self.teacher_stage)):
            terms[f"s{number}.{self.stage_loss_name}"] = self._run_without_proposals(step, number)
        return terms

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
        """0, with a gradient of 0 for a stage of the student, its mask head too."""
        roi_head, features = step.student.roi_head, self._student_features(step)
        rois = features[0].new_zeros(0, 5)
        parts = [*forward_stage(roi_head, number, features, rois)]
        if roi_head.with_mask:
            parts.append(forward_masks(roi_head, number, features, rois))
        return sum((part.sum() for part in parts), start=rois.new_zeros(()))
