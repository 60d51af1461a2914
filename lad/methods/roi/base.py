"""Base of distillation of RoI heads: the teacher's RoI head scores the proposals that the student samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lad.errors import UnsupportedError
from lad.methods.base import DistillationMethod, Step
from lad.methods.roi.heads import (
    channels_of,
    check_roi_head,
    forward_stage,
    is_sigmoid,
    score_rois,
    stages_of,
)
from lad.methods.roi.stages import (
    StageOutputs,
    match_stages,
    pooled_module,
    recording_stages,
    zero_of_stage,
)
from lad.methods.roi.two_stage import find_class_mapping
from lad.methods.settings import checked_classes
from lad.networks.routes import Teacher

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.structures.bbox import bbox2roi
from torch import Tensor


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
    #: The method's name in messages, where it is not that of its class.
    owner: str | None = None

    def __init__(self, classes: Sequence[str] | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.classes = checked_classes(self.owner or type(self).__name__, classes)

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
        owner = self.owner or type(self).__name__
        check_roi_head("student", student, owner)
        check_roi_head("teacher", teacher.model, owner)
        own, taught = stages_of(student), stages_of(teacher.model)
        self.teacher_stage = match_stages(owner, own, taught)
        self.mapping = find_class_mapping(
            owner, self.classes, own[0].num_classes, taught[0].num_classes, teacher
        )
        explicit = is_sigmoid(own[0]) and channels_of(own[0]) > own[0].num_classes
        if explicit and not self.mapping.is_identity:
            raise UnsupportedError(
                f"{owner}: classes cannot be mapped between sigmoid classifiers with a channel for the background; "
                "use softmax, or CrossEntropyCustomLoss."
            )
        self.teacher_features = pooled_module(teacher.model)
        self.teacher_modules = (self.teacher_features,)
        self.student_features = pooled_module(student)
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
        with recording_stages(step.student) as seen:
            step.observations[self] = seen
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
            scores, boxes = self.teachers_predictions(step, number, outputs.rois)
            losses = self.compare(head, outputs, scores, boxes)
            weight = student.roi_head.stage_loss_weights[number] if is_cascade else 1.0
            prefix = f"s{number}." if is_cascade else ""
            terms |= {f"{prefix}{name}": weight * value for name, value in losses.items()}
        # MMDetection leaves a cascade when a stage has no proposal; DDP waits for the others' gradients all the same.
        for number in range(len(seen), len(self.teacher_stage)):
            terms[f"s{number}.{self.stage_loss_name}"] = self._run_without_proposals(step, number)
        return terms

    def teachers_predictions(self, step: Step, number: int, rois: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's logits and deltas of (n, 5) boxes that a stage of the student has scored."""
        stage = self.teacher_stage[number]
        return step.teacher.evaluate(score_rois, self.teacher_features, stage, rois, step.teacher.is_ensemble)

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
        return zero_of_stage(step.student.roi_head, number, self._student_features(step))
