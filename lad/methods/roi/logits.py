"""Logit distillation of RoI heads: the teacher's classes of the student's own proposals."""

from __future__ import annotations

from collections.abc import Sequence

from lad.errors import UnsupportedError
from lad.methods.base import Step
from lad.methods.response.logits import build_logit_loss, logit_loss
from lad.methods.roi.base import RoIDistillation
from lad.methods.roi.heads import is_sigmoid, stages_of
from lad.methods.roi.stages import StageOutputs
from lad.methods.roi.two_stage import averaged_over_ranks
from lad.methods.settings import checked_loss_name
from lad.networks.routes import Teacher

from mmdet.models.detectors import BaseDetector
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class RoILogitDistillation(RoIDistillation):
    """A loss between the student's and the teacher's class logits of the proposals that the student samples.

    It comes on top of the student's own loss, which stays as it is. With ``KDLoss`` it is plain distillation (Hinton
    et al., 2015), with ``DKDLoss`` decoupled distillation as Zhao et al., CVPR 2022, train Faster R-CNN: the target
    class is the label of the proposal, background too. The loss is averaged over the sampled proposals of the batch,
    that of all processes. Sigmoid classifiers are compared class by class, and background has no target. A Cascade
    R-CNN is taught stage by stage, with its own stage weights.

    Args:
        loss: Config of a loss of (n, C) logits: ``KDLoss``, ``DKDLoss``, ``SoftCrossEntropyLoss``, for sigmoid
            classifiers also ``QualityKDLoss``; ``use_sigmoid`` is filled in.
        classes: The student's class names, in its order, where the teacher's are others or in another order: they are
            looked up by name in the teacher's checkpoint, and classes that the student does not have are background.
        loss_name: What the loss is called.
        init_cfg: As in MMEngine.
    """

    loss_name: str

    def __init__(
        self,
        loss: dict | None = None,
        classes: Sequence[str] | None = None,
        loss_name: str = "loss_kd",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(classes=classes, init_cfg=init_cfg)
        self.loss_config = dict(loss or dict(type="KDLoss"))
        self.loss_name = self.stage_loss_name = checked_loss_name(type(self).__name__, loss_name)

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Refuse RoI heads whose classes cannot be compared."""
        super().bind(student, teacher)
        self.loss = build_logit_loss(type(self).__name__, self.loss_config, is_sigmoid(stages_of(student)[0]))

    def check_without_labels(self, student: BaseDetector) -> None:
        """Proposals are sampled by the student's own loss."""
        raise UnsupportedError(
            "student_loss=False: RoILogitDistillation needs the proposals and labels of the student's own loss; "
            "RCNNDistillation works without labels."
        )

    def loss_weights(self) -> dict[str, float]:
        """The factor of the loss."""
        return {self.loss_name: getattr(self.loss, "loss_weight", 1.0)}

    def compare(
        self, head: BBoxHead, outputs: StageOutputs, teacher_scores: Tensor, teacher_boxes: Tensor
    ) -> dict[str, Tensor]:
        """The loss of one stage under its name."""
        teacher = self.taught_logits(head, teacher_scores, getattr(self.loss, "temperature", 1.0))
        targets = outputs.targets
        assert targets is not None  # runs without labels are refused
        weight = targets.label_weights
        [avg_factor] = averaged_over_ranks((weight > 0).sum(), like=weight)
        value = logit_loss(
            self.loss, outputs.cls_score, teacher, targets.labels, weight, avg_factor=avg_factor
        )
        return {self.loss_name: value}

    def _run_without_proposals(self, step: Step, number: int) -> Tensor:
        zero = super()._run_without_proposals(step, number)
        # Other processes may have proposals here, and wait for this one's number.
        averaged_over_ranks(0, like=zero)
        return zero
