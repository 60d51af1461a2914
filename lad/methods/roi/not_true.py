"""Not-true distillation of RoI heads, and proposals that are protected from their background label."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lad.base.replace import replaced
from lad.losses import binary_not_true_divergence, not_true_divergence
from lad.methods.base import Step
from lad.methods.response.dense import best_probability
from lad.methods.roi.base import RoIDistillation
from lad.methods.roi.heads import is_sigmoid, stages_of
from lad.methods.roi.stages import StageOutputs
from lad.methods.roi.two_stage import averaged_over_ranks

import torch
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from torch import Tensor


class RoINotTrue(RoIDistillation):
    """:class:`lad.methods.response.not_true.NotTrueDistillation` of a RoI head.

    Args:
        owner: The method, for messages.
        temperature: T.
        protect: Probability of an object above which a background proposal is protected; None for none.
        loss_name: What the loss is called.
    """

    loss_name: str
    owner: str

    def __init__(self, owner: str, temperature: float, protect: float | None, loss_name: str) -> None:
        super().__init__()
        self.owner = owner
        self.temperature = temperature
        self.protect = protect
        self.loss_name = self.stage_loss_name = loss_name
        #: The teacher's predictions by stage, from the student's own loss to the method's.
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}

    @contextmanager
    def steer(self, step: Step) -> Iterator[None]:
        """Take background proposals that the teacher calls an object out of each stage's classification loss."""
        if self.protect is None:
            yield
            return
        self.seen.clear()

        def protecting(number: int, head: BBoxHead) -> Callable[..., dict]:
            loss = head.loss

            def run(
                cls_score: Tensor,
                bbox_pred: Tensor,
                rois: Tensor,
                labels: Tensor,
                label_weights: Tensor,
                *args: Any,
                **kwargs: Any,
            ) -> dict:
                self.seen[number] = self.teachers_predictions(step, number, rois)
                kept = label_weights * ~self.protected(head, self.seen[number][0], labels)
                return loss(cls_score, bbox_pred, rois, labels, kept, *args, **kwargs)

            return run

        with ExitStack() as stack:
            for number, head in enumerate(stages_of(step.student)):
                stack.enter_context(replaced(head, "loss", protecting(number, head)))
            yield

    def teachers_predictions(self, step: Step, number: int, rois: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's predictions, computed once: by :meth:`steer` where it protects proposals."""
        seen = self.seen.pop(number, None)
        return super().teachers_predictions(step, number, rois) if seen is None else seen

    @torch.no_grad()
    def protected(self, head: BBoxHead, teacher_scores: Tensor, labels: Tensor) -> Tensor:
        """(n,) bool: background to the student's labels, and an object to the teacher."""
        if self.protect is None:
            return torch.zeros_like(labels, dtype=torch.bool)
        logits = self.taught_logits(head, teacher_scores)
        if is_sigmoid(head):
            logits = logits[:, : head.num_classes]
        chance = best_probability(logits, is_sigmoid(head))
        return (labels == head.num_classes) & (chance > self.protect)

    def compare(
        self, head: BBoxHead, outputs: StageOutputs, teacher_scores: Tensor, teacher_boxes: Tensor
    ) -> dict[str, Tensor]:
        """The mean divergence of foreground and protected proposals."""
        targets = outputs.targets
        assert targets is not None  # runs without labels are refused
        teacher = self.taught_logits(head, teacher_scores, self.temperature)
        protected = self.protected(head, teacher_scores, targets.labels)
        learns = ((targets.labels < head.num_classes) | protected) & (targets.label_weights > 0)
        # The background is no class that is true: a protected proposal leaves out none.
        labels = targets.labels.masked_fill(targets.labels == head.num_classes, -1)
        divergence = binary_not_true_divergence if is_sigmoid(head) else not_true_divergence
        values = divergence(outputs.cls_score, teacher, labels, self.temperature)
        [count] = averaged_over_ranks(learns.sum(), like=outputs.cls_score)
        return {self.loss_name: values.masked_fill(~learns, 0).sum() / count}

    def _run_without_proposals(self, step: Step, number: int) -> Tensor:
        zero = super()._run_without_proposals(step, number)
        # Other processes may have proposals here, and wait for this one's number.
        averaged_over_ranks(0, like=zero)
        return zero
