"""Base of methods that compare a DETR's answers to queries with its teacher's."""

from __future__ import annotations

from collections.abc import Sequence

from lad.errors import UnsupportedError
from lad.methods.base import DistillationMethod
from lad.methods.roi.two_stage import find_class_mapping
from lad.methods.settings import checked_classes, checked_loss_name
from lad.methods.transformers.comparison import build_answer_losses
from lad.methods.transformers.decoding import Answers
from lad.networks.routes import Teacher

import torch
from mmdet.models.detectors import BaseDetector
from torch import Tensor

#: What is compared of an answer; the ends of the losses' names.
PARTS = ("cls", "bbox", "iou")


class AnswerDistillation(DistillationMethod):
    """A method with losses of classes, boxes and overlaps of queries, in each decoder layer of the student.

    Args:
        loss_cls, loss_bbox, loss_iou: Configs of the losses; by default ``KDLoss``, ``L1Loss`` and ``GIoULoss`` with
            DETR's weights of 5 and 2.
        classes: The student's class names, in its order, where the teacher's are others or in another order.
        loss_name: What the names of the three losses begin with.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: a setting is wrong.
        UnsupportedError: the class loss does not fit.
    """

    ensembles = False  # two teachers' queries do not correspond either
    loss_name: str
    pairs: Tensor

    def __init__(
        self,
        loss_cls: dict | None,
        loss_bbox: dict | None,
        loss_iou: dict | None,
        classes: Sequence[str] | None,
        loss_name: str,
        init_cfg: dict | None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        owner = type(self).__name__
        self.compared = build_answer_losses(
            owner,
            loss_cls or dict(type="KDLoss"),
            loss_bbox or dict(type="L1Loss", loss_weight=5.0),
            loss_iou or dict(type="GIoULoss", loss_weight=2.0),
        )
        self.classes = checked_classes(owner, classes)
        self.loss_name = checked_loss_name(owner, loss_name)

    def bind_answers(self, student: BaseDetector, teacher: Teacher, pairs: Sequence[int]) -> None:
        """Find the teacher's classes and features, and note its decoder layer for each of the student's.

        Raises:
            UnsupportedError: a head has a softmax over the classes, or their numbers differ.
        """
        owner = type(self).__name__
        _check_sigmoid(owner, student, teacher.model)
        self.mapping = find_class_mapping(
            owner, self.classes, student.bbox_head.num_classes, teacher.model.bbox_head.num_classes, teacher
        )
        self.features = "neck" if teacher.model.with_neck else "backbone"
        self.teacher_modules = (self.features,)
        self.register_buffer("pairs", torch.tensor(pairs), persistent=False)

    def of_students_classes(self, answers: Answers) -> Answers:
        """A teacher's answers with logits of the student's classes, in its order."""
        scores = answers.cls_scores
        mapped = self.mapping.binary_logits(scores.flatten(0, 2)).unflatten(0, scores.shape[:3])
        return answers._replace(cls_scores=mapped)

    def named(self, values: Sequence[Tensor]) -> dict[str, Tensor]:
        """The three losses under their names."""
        return {f"{self.loss_name}_{part}": value for part, value in zip(PARTS, values, strict=True)}

    def factors(self) -> list[float]:
        """The weights that the three losses have of their own."""
        return [getattr(getattr(self.compared, part), "loss_weight", 1.0) for part in PARTS]

    def loss_weights(self) -> dict[str, float]:
        """The factors of the three losses."""
        return {
            f"{self.loss_name}_{part}": factor for part, factor in zip(PARTS, self.factors(), strict=True)
        }


def _check_sigmoid(owner: str, student: BaseDetector, teacher: BaseDetector) -> None:
    """Refuse heads with a softmax over the classes.

    Raises:
        UnsupportedError: names the head.
    """
    for role, detector in (("student", student), ("teacher", teacher)):
        if not detector.bbox_head.loss_cls.use_sigmoid:
            raise UnsupportedError(
                f"{owner}: the {role}'s {type(detector.bbox_head).__name__} has a softmax over the classes; it works "
                "with sigmoid classifiers, bbox_head=dict(loss_cls=dict(type='FocalLoss', use_sigmoid=True))."
            )
