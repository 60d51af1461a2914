"""Logit distillation of dense heads: the teacher's class scores at every prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from lad.errors import ConfigError
from lad.heads.dense import class_logits, join_levels, level_sizes
from lad.methods.base import Step
from lad.methods.response.dense import (
    DenseDistillation,
    best_probability,
    check_dense_heads,
    check_labels_known,
    check_same_count,
    prior_count,
)
from lad.methods.response.logits import build_logit_loss, logit_loss
from lad.methods.roi.two_stage import find_class_mapping
from lad.methods.settings import checked_classes, checked_loss_name
from lad.networks.routes import Teacher

from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from torch import Tensor

#: Which priors are taught, and with what weight.
Where = Literal["all", "positive", "confidence"]


@MODELS.register_module()
class DenseLogitDistillation(DenseDistillation):
    """A loss between the student's and the teacher's class logits, prior by prior, on top of the student's own loss.

    With ``KDLoss`` it is plain distillation (Hinton et al., 2015), with ``DKDLoss`` decoupled distillation (Zhao et
    al., CVPR 2022), both in the form of the head's classifier: binary for sigmoid heads, where the target class is the
    one that the student's own label assignment gives a prior (none for background). Detectors' papers do not agree how
    to average; here the sum over priors is divided by what the student's head divides its class loss by
    (:attr:`lad.exchange.labels.DenseLabels.avg_factor`), so that the two keep their ratio in every batch. Priors that
    this loss passes over (near misses of RetinaNet) are passed over here too.

    Args:
        loss: Config of a loss of (n, C) logits: ``KDLoss``, ``DKDLoss``, ``SoftCrossEntropyLoss``, for sigmoid
            classifiers also ``QualityKDLoss``; ``use_sigmoid`` is filled in.
        where: ``'all'`` priors alike; ``'positive'``: those of the student's label assignment alone;
            ``'confidence'``: each with the teacher's largest class probability for its weight.
        classes: The student's class names, in its order, where the teacher's are others or in another order: they are
            looked up by name in the teacher's checkpoint.
        loss_name: What the loss is called.
        init_cfg: As in MMEngine.
    """

    loss_name: str

    def __init__(
        self,
        loss: dict | None = None,
        where: Where = "all",
        classes: Sequence[str] | None = None,
        loss_name: str = "loss_kd",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if where not in get_args(Where):
            raise ConfigError(
                f"DenseLogitDistillation: where must be one of {', '.join(get_args(Where))}, got {where!r}."
            )
        self.loss_config = dict(loss or dict(type="KDLoss"))
        self.where = where
        self.classes = checked_classes(type(self).__name__, classes)
        self.loss_name = checked_loss_name(type(self).__name__, loss_name)

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Refuse heads whose class scores do not correspond; find the teacher's classes."""
        heads = self.heads(student, teacher)
        check_dense_heads("DenseLogitDistillation", heads, (student, teacher.model))
        check_labels_known("DenseLogitDistillation", heads[0])
        self.mapping = find_class_mapping(
            "DenseLogitDistillation", self.classes, heads[0].num_classes, heads[1].num_classes, teacher
        )
        self.loss = build_logit_loss("DenseLogitDistillation", self.loss_config, heads[0].use_sigmoid_cls)

    def loss_weights(self) -> dict[str, float]:
        """The factor of the loss."""
        return {self.loss_name: getattr(self.loss, "loss_weight", 1.0)}

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The loss under its name; gradients reach the student only."""
        head, teacher_head = step.student.bbox_head, step.teacher.model.bbox_head
        outputs = step.outputs["bbox_head"]
        [taught] = step.teacher.target("bbox_head")
        check_same_count(
            "DenseLogitDistillation", prior_count(head, outputs), prior_count(teacher_head, taught)
        )
        student = class_logits(head, outputs, join_levels)
        # Several exits or methods may learn them.
        teacher = step.teacher.once(
            "joined class logits", lambda: class_logits(teacher_head, taught, join_levels)
        )
        labels = self.labels(step).joined(level_sizes(outputs[0]))
        if head.use_sigmoid_cls:
            teacher = self.mapping.binary_logits(teacher)
        else:
            teacher = self.mapping.logits(teacher, getattr(self.loss, "temperature", 1.0))
        weight = labels.counts.float()
        if self.where == "positive":
            weight = labels.positive.float()
        elif self.where == "confidence":
            weight = weight * best_probability(teacher, head.use_sigmoid_cls)
        value = logit_loss(self.loss, student, teacher, labels.labels, weight, avg_factor=labels.avg_factor)
        return {self.loss_name: value}
