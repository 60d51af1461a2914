"""Logit distillation of mask heads: the teacher's masks of the student's own positive proposals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.losses import KDLoss, QualityKDLoss
from lad.methods.base import DistillationMethod, Step
from lad.methods.response.logits import build_binary_loss
from lad.methods.roi.heads import forward_masks, mask_rois
from lad.methods.roi.stages import pooled_module, stage_numbers
from lad.methods.roi.two_stage import averaged_over_ranks, find_class_mapping
from lad.methods.settings import checked_classes, checked_loss_name
from lad.networks.routes import Teacher

import torch
from mmdet.models.detectors import BaseDetector, TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules import SamplingResult
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox2roi
from torch import Tensor, nn
from torch.nn import functional as F

WORKS_WITH = "Mask R-CNN and Cascade Mask R-CNN with FCNMaskHead"


@dataclass(frozen=True)
class StageMasks:
    """Masks that one stage of a RoI head predicts for its n positive proposals.

    Attributes:
        number: Of the stage, from 0.
        rois: (n, 5) image number and box.
        labels: (n,) int64 classes of their objects.
        logits: (n, C, h, w), or (n, 1, h, w) for all classes alike.
    """

    number: int
    rois: Tensor
    labels: Tensor
    logits: Tensor


@MODELS.register_module()
class MaskLogitDistillation(DistillationMethod):
    """A loss between the student's and the teacher's mask logits of the student's own positive proposals.

    The teacher's mask head runs on the boxes that the student's own loss samples as positive, on the teacher's
    features, so that pixels correspond; of the masks of all classes the one of the object's class is compared, as in
    the own loss. Where the two masks have other sizes, the teacher's logits are resized (bilinear) to the student's:
    both cover the box. The loss is the mean over pixels and over the positive proposals of the batch, that of all
    processes. A Cascade Mask R-CNN is taught stage by stage, with its own stage weights.

    It teaches masks alone: list RoI methods beside it for boxes and classes.

    Args:
        loss: Config of a loss of binary logits: ``KDLoss`` (the default; ``temperature`` softens) or
            ``QualityKDLoss``.
        classes: The student's class names, in its order, where the teacher's are others or in another order.
        loss_name: What the loss is called.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: a setting is out of range.
        UnsupportedError: a detector has no such mask head.
    """

    loss_name: str
    compares_units = ()

    def __init__(
        self,
        loss: dict | None = None,
        classes: Sequence[str] | None = None,
        loss_name: str = "loss_mask_kd",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        owner = type(self).__name__
        self.loss = build_binary_loss(owner, loss or dict(type="KDLoss"), "pixels are no classes")
        if not isinstance(self.loss, (KDLoss, QualityKDLoss)):
            # A soft cross-entropy weights "the background", which is no other class of a pixel.
            raise UnsupportedError(
                f"{owner}: {type(self.loss).__name__} does not compare masks: use KDLoss or QualityKDLoss."
            )
        self.classes = checked_classes(type(self).__name__, classes)
        self.loss_name = checked_loss_name(type(self).__name__, loss_name)

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Refuse detectors without such mask heads; match stages and classes."""
        owner = type(self).__name__
        for role, detector in (("student", student), ("teacher", teacher.model)):
            _check_masks(owner, role, detector)
        own, taught = mask_heads(student), mask_heads(teacher.model)
        self.teacher_stage = stage_numbers(owner, len(own), len(taught))
        self.mapping = find_class_mapping(
            owner, self.classes, own[0].num_classes, taught[0].num_classes, teacher
        )
        self.teacher_features = pooled_module(teacher.model)
        self.teacher_modules = (self.teacher_features,)
        self.student_features = pooled_module(student)
        self.student_modules = (self.student_features,)

    def check_without_labels(self, student: BaseDetector) -> None:
        """Refused: which proposals are positive is what the student's own loss finds out."""
        raise UnsupportedError(
            "student_loss=False: MaskLogitDistillation needs the positive proposals of the student's own loss; train "
            "with labels, or use FeatureDistillation."
        )

    @contextmanager
    def observe(self, step: Step) -> Iterator[None]:
        """Record the positive proposals of each stage and the student's masks of them."""
        with recording_masks(step.student) as step.observations[self]:
            yield

    def losses(self, step: Step) -> dict[str, Tensor]:
        """One loss for each stage; gradients reach the student."""
        roi_head = step.student.roi_head
        is_cascade = isinstance(roi_head, CascadeRoIHead)
        seen = {masks.number: masks for masks in step.observations.pop(self)}
        terms = {}
        for number, stage in enumerate(self.teacher_stage):
            # MMDetection leaves a cascade when a stage has no proposal; DDP waits for gradients all the same.
            masks = seen.get(number) or self._no_masks(step, number)
            taught = step.teacher.evaluate(mask_rois, self.teacher_features, stage, masks.rois)
            value = self.compare(masks, taught)
            if is_cascade:
                terms[f"s{number}.{self.loss_name}"] = roi_head.stage_loss_weights[number] * value
            else:
                terms[self.loss_name] = value
        return terms

    def compare(self, masks: StageMasks, taught: Tensor) -> Tensor:
        """The mean over pixels and positive proposals.

        Args:
            masks: The student's.
            taught: (n, C_t, h, w) or (n, 1, h, w) the teacher's logits of the same boxes.
        """
        own = of_label(masks.logits, masks.labels).float()
        labels = masks.labels if self.mapping.is_identity else self.mapping.index[masks.labels]
        taught = of_label(taught, labels).float()
        if taught.shape != own.shape:
            taught = F.interpolate(taught[:, None], own.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        [count] = averaged_over_ranks(len(own), like=own)
        own, taught = own.flatten(1), taught.flatten(1)
        return self.loss(own, taught, weight=own.new_ones(len(own)), avg_factor=count * own.shape[1])

    def _no_masks(self, step: Step, number: int) -> StageMasks:
        features = step.outputs[self.student_features]
        rois = features[0].new_zeros(0, 5)
        logits = forward_masks(step.student.roi_head, number, features, rois)
        return StageMasks(number, rois, rois.new_zeros(0, dtype=torch.long), logits)

    def loss_weights(self) -> dict[str, float]:
        """The factor of the loss."""
        return {self.loss_name: getattr(self.loss, "loss_weight", 1.0)}


def of_label(masks: Tensor, labels: Tensor) -> Tensor:
    """(n, h, w) masks of the labels (n,) out of (n, C, h, w); a single channel serves all classes."""
    if masks.shape[1] == 1:
        return masks[:, 0]
    return masks[torch.arange(len(labels), device=labels.device), labels]


def mask_heads(model: BaseDetector) -> list[FCNMaskHead]:
    """The mask heads of a detector's RoI head, one a stage."""
    heads = model.roi_head.mask_head
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


@contextmanager
def recording_masks(student: BaseDetector) -> Iterator[list[StageMasks]]:
    """Record what each mask head predicts for its own loss while a detector computes it in the block."""
    seen: list[StageMasks] = []

    def recorder(number: int, head: FCNMaskHead) -> Callable[..., dict]:
        loss_and_target = head.loss_and_target

        def loss_and_record(
            mask_preds: Tensor, sampling_results: list[SamplingResult], *args: Any, **kwargs: Any
        ) -> dict:
            rois = bbox2roi([result.pos_priors for result in sampling_results])
            labels = torch.cat([result.pos_gt_labels for result in sampling_results])
            seen.append(StageMasks(number, rois, labels, mask_preds))
            return loss_and_target(mask_preds, sampling_results, *args, **kwargs)

        return loss_and_record

    with ExitStack() as stack:
        for number, head in enumerate(mask_heads(student)):
            stack.enter_context(replaced(head, "loss_and_target", recorder(number, head)))
        yield seen


def _check_masks(owner: str, role: str, model: BaseDetector) -> None:
    """Refuse a detector whose masks are predicted or trained in another way.

    Raises:
        UnsupportedError: names the detector, what it has, and what would work.
    """
    roi_head = getattr(model, "roi_head", None)
    problem = None
    if roi_head is None or not roi_head.with_mask:
        problem = "no mask head of RoIs"
    elif not _is_known(roi_head, trains=role == "student"):
        problem = type(roi_head).__name__
    elif role == "student" and type(model).loss is not TwoStageDetector.loss:
        problem = "a loss of its own"
    else:
        for head in mask_heads(model):
            kind = type(head)
            # PointRend's coarse head has the same loss, and a forward pass and points of its own.
            if any(
                getattr(kind, name, None) is not getattr(FCNMaskHead, name)
                for name in ("loss_and_target", "forward")
            ):
                problem = type(head).__name__
    if problem:
        raise UnsupportedError(
            f"{owner} does not fit {role} {type(model).__name__} ({problem}); it works with {WORKS_WITH}; masks of "
            "other detectors are taught by FeatureDistillation of their mask features."
        )


def _is_known(roi_head: nn.Module, trains: bool) -> bool:
    """Whether a RoI head calls its mask head, and (for a student) computes its loss, as this method expects."""
    kind = type(roi_head)
    known = CascadeRoIHead if isinstance(roi_head, CascadeRoIHead) else StandardRoIHead
    names = ("_mask_forward", "mask_loss", "loss") if trains else ("_mask_forward",)
    return all(getattr(kind, name, None) is getattr(known, name) for name in names)
