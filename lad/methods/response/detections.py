"""Distillation from a teacher's detections: boxes with scores as objects of the student's own loss."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal, get_args

from lad.base.draws import step_generator
from lad.base.replace import replaced
from lad.base.schedules import Schedule, build_schedule
from lad.base.settings import check_numbers
from lad.errors import ConfigError, UnsupportedError
from lad.methods.base import DistillationMethod, Link, Step
from lad.methods.settings import checked_loss_name
from lad.networks.forward import HEADS, PLAIN_FEATURES
from lad.networks.gives import DETECTIONS
from lad.networks.routes import Teacher

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmengine.dist import get_rank, get_world_size
from mmengine.structures import InstanceData
from torch import Tensor, nn

#: How a score becomes a target: by a threshold drawn anew, or by a fixed one.
Targets = Literal["soft", "hard"]
#: Scores below which no detection is an object, by default.
LEAST_SCORES: dict[str, float] = {"soft": 0.05, "hard": 0.3}
#: Heads that learn masks, which detections do not have.
MASK_HEADS = ("mask_head", "panoptic_head", "semantic_head")


@MODELS.register_module()
class DetectionDistillation(DistillationMethod):
    """The student's own loss on what the teacher detects, with soft scores.

    Each term of the own loss is computed once more with the teacher's detections as objects: the student's head
    assigns and weighs them as it does annotated ones, so any detector of boxes can learn so, from any detector, and
    from a file of detections of any package (``teacher=dict(type='DetectionFile', file=...)``).

    ``targets='soft'``: for each image a threshold is drawn at each step, uniformly from 0 to 1, and the detections
    that reach it are that step's objects. A detection of score s is then an object in the part s of the steps: the
    expected loss of the priors that it is assigned is s times that of an object plus 1 - s times that of background,
    whose optimum for a cross entropy is the probability s. Of the N images of a batch one threshold is in each N-th
    part of the range: heads divide by the number of positives, and a batch of high thresholds alone would have next to
    none. (Ours; for the weighting of pseudo labels by scores compare Xu et al., "End-to-End Semi-Supervised Object
    Detection with Soft Teacher", ICCV 2021, arXiv 2106.09018.)
    ``'hard'``: detections from ``min_score`` on are objects in every step, as in pseudo labelling.

    With ``student_loss=False`` of the detector no annotation is used.

    Args:
        targets: ``'soft'`` or ``'hard'``.
        min_score: Detections below are never objects; by default 0.05 for soft targets, and 0.3 for hard ones.
        loss_weight: Factor of every term, a number or a schedule (:func:`lad.base.schedules.build_schedule`).
        loss_name: In the names of its terms it stands for ``'loss'``: ``'loss_detections_cls'`` for ``'loss_cls'``.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: a setting is out of range.
        UnsupportedError: the student learns masks together with its boxes, or has features of its own kind.
    """

    reads = DETECTIONS
    ensembles = False
    trains = tuple(name for name in HEADS if name not in MASK_HEADS)
    loss_name: str

    def __init__(
        self,
        targets: Targets = "soft",
        min_score: float | None = None,
        loss_weight: float | dict | Schedule = 1.0,
        loss_name: str = "loss_detections",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        owner = type(self).__name__
        if targets not in get_args(Targets):
            raise ConfigError(f"{owner}: targets must be 'soft' or 'hard', got {targets!r}.")
        min_score = LEAST_SCORES[targets] if min_score is None else min_score
        check_numbers(owner, minimum=0, maximum=1, min_score=min_score)
        self.targets = targets
        self.min_score = min_score
        self.loss_weight = build_schedule(loss_weight, f"{owner}: loss_weight", minimum=0)
        self.loss_name = checked_loss_name(owner, loss_name)

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Find out how the student's own loss is computed once more, without running its backbone again."""
        owner = type(self).__name__
        _check_classes(owner, student, teacher.model)
        masks = [name for name, _ in student.named_modules() if name.rpartition(".")[2] in MASK_HEADS]
        # A RoI head computes the losses of its boxes without those of its masks.
        self.has_roi_masks = masks == ["roi_head.mask_head"]
        if masks and not self.has_roi_masks:
            raise UnsupportedError(
                f"{owner}: {type(student).__name__} learns its masks ({masks[0]}) together with its boxes, and "
                "detections are boxes; it works with detectors of boxes, Mask R-CNN and Cascade Mask R-CNN."
            )
        head = getattr(student, "bbox_head", None)
        # A one-stage head computes its loss from what it put out for its own.
        self.from_outputs = isinstance(head, BaseDenseHead) and type(head).loss is BaseDenseHead.loss
        if self.from_outputs:
            self.student_modules = ("bbox_head",)
            return
        if type(student).extract_feat not in PLAIN_FEATURES:
            raise UnsupportedError(
                f"{owner}: {type(student).__name__} has features of its own kind, from which its loss cannot be "
                "computed twice; it works with one-stage detectors, Faster and Cascade R-CNN, and DETRs."
            )
        self.student_modules = ("neck" if student.with_neck else "backbone",)

    def check_without_labels(self, student: BaseDetector) -> None:
        """Refuse a student whose masks would not be trained."""
        if self.has_roi_masks:
            raise UnsupportedError(
                f"{type(self).__name__}: detections are boxes, so the masks of {type(student).__name__} need "
                "student_loss=True."
            )

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The terms of the student's own loss on the detections, under names of their own."""
        # Copies: heads may write into the instances that they are given.
        found = step.teacher.detections
        limits = self.thresholds(len(found), step.progress.iteration)
        objects = [self.chosen(each, limit) for each, limit in zip(found, limits, strict=True)]
        own = self._own_loss(step, objects)
        weight = self.loss_weight.at(step.progress)
        terms: dict[str, Any] = {
            name: sum(value[1:], start=value[0]) if isinstance(value, (list, tuple)) else value
            for name, value in own.items()
            if "loss" in name
        }
        return {name.replace("loss", self.loss_name, 1): weight * value for name, value in terms.items()}

    def thresholds(self, count: int, iteration: int) -> list[float]:
        """The least score of an object in each of a process's images, drawn on the host, where the scores are.

        One image of all processes has a threshold in each equal part of the range, whichever image it is.

        Args:
            count: Number of the process's images.
            iteration: Number of the step.
        """
        if self.targets == "hard":
            return [self.min_score] * count
        generator = step_generator(iteration)  # the same in all processes
        total, first = count * get_world_size(), count * get_rank()
        drawn = float(torch.rand((), generator=generator))
        parts = torch.randperm(total, generator=generator)[first : first + count].tolist()
        # From (0, 1], so that a score of 0 is never an object.
        return [max(self.min_score, 1 - (part + drawn) / total) for part in parts]

    @staticmethod
    def chosen(detections: InstanceData, threshold: float) -> InstanceData:
        """The detections of an image that reach a score: the first ones, as the best come first."""
        count = int((detections.scores >= threshold).sum())
        return InstanceData(
            bboxes=detections.bboxes[:count].clone(), labels=detections.labels[:count].clone()
        )

    def _own_loss(self, step: Step, objects: Sequence[InstanceData]) -> dict[str, Any]:
        samples = _with_objects(step.data_samples, objects)
        if self.from_outputs:
            return step.student.bbox_head.loss_by_feat(
                *_as_tuple(step.outputs["bbox_head"]),
                batch_gt_instances=list(objects),
                batch_img_metas=[sample.metainfo for sample in samples],
                batch_gt_instances_ignore=[sample.get("ignored_instances") for sample in samples],
            )
        features = step.outputs[self.student_modules[0]]
        with ExitStack() as changes:
            changes.enter_context(replaced(step.student, "extract_feat", lambda inputs: features))
            if self.has_roi_masks:
                changes.enter_context(replaced(step.student.roi_head, "mask_head", None))
            return step.student.loss(step.inputs, samples)

    def links(self) -> list[Link]:
        """One, of the student's head or features and the detections."""
        return [Link(self.student_modules[0], None, "own loss on the teacher's detections")]


def _check_classes(owner: str, student: BaseDetector, teacher: BaseDetector) -> None:
    """Refuse a detector that tells another number of classes apart; a file's are mapped by name."""
    own, taught = _num_classes(student), _num_classes(teacher)
    if None not in (own, taught) and own != taught:
        raise UnsupportedError(
            f"{owner}: the student has {own} classes and the teacher {taught}; set both num_classes alike, or give the "
            "teacher's detections as a DetectionFile, whose classes are mapped by name."
        )


def _num_classes(model: BaseDetector) -> int | None:
    for head in (
        getattr(model, "bbox_head", None),
        getattr(getattr(model, "roi_head", None), "bbox_head", None),
    ):
        first = head[0] if isinstance(head, nn.ModuleList) else head
        if isinstance(count := getattr(first, "num_classes", None), int):
            return count
    return None


def _with_objects(samples: SampleList, objects: Sequence[InstanceData]) -> SampleList:
    """The images of a batch with other objects."""
    changed = []
    for sample, own in zip(samples, objects, strict=True):
        twin = sample.new()
        twin.gt_instances = own
        changed.append(twin)
    return changed


def _as_tuple(outputs: Any) -> tuple:
    return outputs if isinstance(outputs, tuple) else (outputs,)
