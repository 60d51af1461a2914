"""Distillation of a RoI head: the teacher scores the student's own proposals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.losses import binary_soft_cross_entropy, soft_cross_entropy
from lad.methods.base import Step
from lad.methods.roi.base import RoIDistillation
from lad.methods.roi.heads import is_sigmoid, of_class, stages_of
from lad.methods.roi.stages import StageOutputs
from lad.methods.roi.two_stage import (
    DeltaConversion,
    TwoStageDistillation,
    averaged_over_ranks,
    bounded_part,
    imitated_part,
    scale_hard,
    target_deltas,
)
from lad.methods.settings import checked_classes
from lad.networks.routes import Teacher

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.registry import MODELS
from mmengine.model import ModuleList
from torch import Tensor


@MODELS.register_module()
class RCNNDistillation(TwoStageDistillation, RoIDistillation):
    """Soft classes and teacher-bounded boxes on the proposals that the student samples.

    Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation", NIPS 2017, Eq. 2 to 4:
    L_cls = mu L_hard + (1 - mu) L_soft and L_reg = L_1 + nu L_b, added as L_cls + lambda L_reg. L_hard and L_1 are the
    student's own losses; for the others the teacher's RoI head scores the student's proposals on the teacher's
    features. The soft loss carries the ``loss_weight`` of the head's ``loss_cls`` as the hard one does. A Cascade R-CNN
    is taught stage by stage, with its own stage weights.

    Of several processes each divides its hard losses by its own number of proposals, as MMDetection does, and its soft
    and bounded ones by the average number of all. Where samplers fill their ``num``, as usual, these are the same
    number, and mu and 1 - mu weigh as in one process.

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
    steers = ("roi_head",)

    def __init__(
        self,
        mu: float = 0.5,
        nu: float = 0.5,
        margin: float = 0.0,
        reg_weight: float = 1.0,
        background_weight: float = 1.5,
        temperature: float = 1.0,
        rescale: bool = False,
        classes: Sequence[str] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(mu, nu, margin, reg_weight, background_weight, temperature, rescale, init_cfg)
        self.classes = checked_classes(type(self).__name__, classes)

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Refuse RoI heads that cannot be compared; find the teacher's classes and units."""
        super().bind(student, teacher)
        own, taught = stages_of(student), stages_of(teacher.model)
        self.to_student = ModuleList(
            DeltaConversion(taught[stage].bbox_coder, head.bbox_coder, "RCNNDistillation")
            for head, stage in zip(own, self.teacher_stage, strict=True)
        )

    def check_without_labels(self, student: BaseDetector) -> None:
        """Only the box branch learns from the teacher, and proposals come from the student's RPN."""
        if getattr(student.roi_head, "with_mask", False) or not hasattr(student, "rpn_head"):
            lacking = (
                "has no RPN" if not hasattr(student, "rpn_head") else "has a mask head, which needs labels"
            )
            raise UnsupportedError(
                f"student_loss=False: {type(student).__name__} {lacking}; RCNNDistillation then works with detectors "
                "such as Faster R-CNN and Cascade R-CNN."
            )

    @contextmanager
    def steer(self, step: Step) -> Iterator[None]:
        """Scale the student's own losses of each stage by mu and lambda."""

        def scaled(loss_and_target: Callable[..., dict]) -> Callable[..., dict]:
            def run(*args: Any, **kwargs: Any) -> dict:
                result = loss_and_target(*args, **kwargs)
                return dict(result, loss_bbox=scale_hard(result["loss_bbox"], self.mu, self.reg_weight))

            return run

        with ExitStack() as stack:
            for head in stages_of(step.student):
                stack.enter_context(replaced(head, "loss_and_target", scaled(head.loss_and_target)))
            yield

    def compare(
        self, head: BBoxHead, outputs: StageOutputs, teacher_scores: Tensor, teacher_boxes: Tensor
    ) -> dict[str, Tensor]:
        """``loss_cls_soft`` with ``loss_bbox_bounded``, or ``loss_bbox_soft`` without labels."""
        to_student = self.to_student[outputs.number]
        return self.stage_losses(head, to_student, outputs, teacher_scores, teacher_boxes)

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
            outputs: The student's predictions.
            teacher_scores: (n, channels) the teacher's logits.
            teacher_boxes: (n, 4) or (n, 4 C) the teacher's deltas.
        """
        count, classes = len(outputs.rois), head.num_classes
        scores = self.taught_logits(head, teacher_scores, self.temperature)
        boxes = teacher_boxes.unflatten(1, (-1, 4))
        boxes = boxes if boxes.shape[1] == 1 else self.mapping.deltas(boxes)
        targets = outputs.targets
        if targets is None:
            # The class that the teacher sees, where it sees one: in a sigmoid classifier without a background at all
            # a proposal is an object if the probability of some class is above one half.
            background = scores[:, classes] if scores.shape[1] > classes else torch.zeros_like(scores[:, 0])
            best, labels = scores[:, :classes].max(dim=1)
            label_weights = scores.new_ones(count, dtype=torch.float32)
            box_weights = (best > background).float()
        else:
            labels, label_weights = targets.labels, targets.label_weights
            box_weights = targets.bbox_weights[:, 0] * (labels < classes)
        avg_factor, box_avg_factor = averaged_over_ranks((label_weights > 0).sum(), count, like=label_weights)
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
            box_avg_factor,
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

    def _run_without_proposals(self, step: Step, number: int) -> Tensor:
        zero = super()._run_without_proposals(step, number)
        # Other processes may have proposals here, and wait for this one's numbers.
        averaged_over_ranks(0, 0, like=zero)
        return zero
