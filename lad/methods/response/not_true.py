"""Not-true distillation: a client keeps what the global model knows of the classes that an object is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lad.base.schedules import build_schedule
from lad.base.settings import check_numbers, is_number
from lad.errors import ConfigError, UnsupportedError
from lad.heads.dense import class_logits
from lad.losses import binary_not_true_divergence
from lad.methods.base import DistillationMethod, Step
from lad.methods.response.dense import (
    DenseDistillation,
    best_probability,
    check_dense_heads,
    check_labels_known,
    check_same_count,
)
from lad.methods.roi.not_true import RoINotTrue
from lad.methods.roi.two_stage import averaged_over_ranks, find_class_mapping
from lad.methods.settings import checked_loss_name
from lad.networks.routes import Teacher

from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class NotTrueDistillation(DistillationMethod):
    """Distillation of the classes that an object is not, from the model that a federated round started with (FedNTD).

    Lee et al., "Preservation of the Global Knowledge by Not-True Distillation in Federated Learning", NeurIPS 2022,
    arXiv 2106.03097: a client that has few classes forgets the others in its local training. Its loss is

        L = own loss + weight T^2 KL(softmax(g / T) || softmax(l / T)), both without the true class,

    with l its logits and g those of the global model, which is a snapshot of the student at the start of the round,
    ``teachers=dict(round=dict(snapshot_of='student', at='start'))``. The paper classifies images; for detectors:

    *Dense heads* whose classes are sigmoids: positives learn the Bernoulli KL of the other classes, over the number of
    positives. At negatives no class is true: they learn that of all classes, each prior weighted by the largest
    probability s that the global model gives to an object there, over max(sum of s, 1). What a client has not annotated
    is negative to it, so this keeps classes that others annotate. Priors that the head's own loss passes over are
    passed over here too.

    *RoI heads*: foreground proposals learn the KL of the paper. What the paper does not have: a background proposal
    where the global model gives a class more than ``protect`` is taken out of the student's own classification loss and
    learns the KL of all classes, background too. The mean is taken over the proposals that learn.

    Args:
        weight: beta of the paper, a number or a schedule (:func:`lad.base.schedules.build_schedule`). At 0 the student
            trains as without the method.
        temperature: T.
        protect: Probability of an object above which a background proposal of a RoI head counts as one that is not
            annotated; None for none.
        loss_name: What the loss is called.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: a setting is out of range.
        UnsupportedError: when it is bound: the heads do not fit.
    """

    # It steers and names no head in ``steers``: it multiplies weights of proposals, and others may change the loss too.
    loss_name: str

    def __init__(
        self,
        weight: float | dict = 1.0,
        temperature: float = 1.0,
        protect: float | None = 0.5,
        loss_name: str = "loss_not_true",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        owner = type(self).__name__
        self.weight = build_schedule(weight, f"{owner}: weight", minimum=0)
        check_numbers(owner, above=0, temperature=temperature)
        if protect is not None and not (is_number(protect) and 0 <= protect <= 1):
            raise ConfigError(f"{owner}: protect must be a probability or None, got {protect!r:.60}.")
        self.temperature = temperature
        self.protect = protect
        self.loss_name = checked_loss_name(owner, loss_name)

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Refuse heads whose classes cannot be compared."""
        owner = type(self).__name__
        self.part: DenseNotTrue | RoINotTrue
        if hasattr(student, "roi_head"):
            self.part = RoINotTrue(owner, self.temperature, self.protect, self.loss_name)
            self.needs_teacher_first = self.protect is not None
        else:
            self.part = DenseNotTrue(owner, self.temperature, self.loss_name)
        self.part.bind(student, teacher)
        self.student_modules, self.teacher_modules = self.part.student_modules, self.part.teacher_modules
        self.compares_units, self.weighable = self.part.compares_units, self.part.weighable

    def check_without_labels(self, student: BaseDetector) -> None:
        """Refused: the true class is that of the student's own labels."""
        raise UnsupportedError(
            f"student_loss=False: {type(self).__name__} needs the labels of the student's own loss; without labels "
            "SoftLabelDistillation trains a PAA head, RPNDistillation with RCNNDistillation a Faster R-CNN."
        )

    @contextmanager
    def observe(self, step: Step) -> Iterator[None]:
        """Record the labels, or the proposals, of the student's own loss."""
        with self.part.observe(step):
            yield

    @contextmanager
    def steer(self, step: Step) -> Iterator[None]:
        """Take the protected proposals of a RoI head out of its classification loss."""
        if self.weight.at(step.progress) == 0:
            yield
            return
        with self.part.steer(step):
            yield

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The weighted divergence under its name, of a cascade stage by stage; gradients reach the student only."""
        weight = self.weight.at(step.progress)
        return {name: weight * value for name, value in self.part.losses(step).items()}

    def loss_weights(self) -> dict[str, float]:
        """The factor of the loss, of a schedule the last."""
        return {self.loss_name: self.weight.end}


class DenseNotTrue(DenseDistillation):
    """:class:`NotTrueDistillation` of a dense head whose classes are sigmoids.

    Args:
        owner: The method, for messages.
        temperature: T.
        loss_name: What the loss is called.
    """

    loss_name: str

    def __init__(self, owner: str, temperature: float, loss_name: str) -> None:
        super().__init__()
        self.owner = owner
        self.temperature = temperature
        self.loss_name = loss_name

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Refuse heads whose class scores do not correspond, and a softmax over the classes of a prior."""
        heads = self.heads(student, teacher)
        check_dense_heads(self.owner, heads, (student, teacher.model))
        if not heads[0].use_sigmoid_cls:
            raise UnsupportedError(
                f"{self.owner}: the student's {type(heads[0]).__name__} has a softmax over the classes of a prior; it "
                "works with dense heads whose classes are sigmoids, and with RoI heads: set use_sigmoid in loss_cls."
            )
        check_labels_known(self.owner, heads[0])
        find_class_mapping(self.owner, None, heads[0].num_classes, heads[1].num_classes, teacher)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The divergence at positives plus that at negatives."""
        [taught] = step.teacher.target("bbox_head")
        student = class_logits(step.student.bbox_head, step.outputs["bbox_head"])
        teacher = class_logits(step.teacher.model.bbox_head, taught)
        check_same_count(self.owner, student.shape[1], teacher.shape[1])
        labels = self.labels(step)
        value = dense_not_true(
            student.flatten(0, 1),
            teacher.flatten(0, 1),
            labels.labels.flatten(),
            labels.positive.flatten(),
            (labels.counts & ~labels.positive).flatten(),
            self.temperature,
        )
        return {self.loss_name: value}


def dense_not_true(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    positive: Tensor,
    negative: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """Not-true divergence of the priors of a batch; see :class:`NotTrueDistillation`.

    Args:
        student: (n, C) logits.
        teacher: (n, C) logits of the global model; no gradient flows to them.
        labels: (n,) true classes, of positives.
        positive, negative: (n,) bool; priors that are neither do not count.
        temperature: T.

    Returns:
        A number: the mean at positives plus the weighted mean at negatives, over the batches of all processes.
    """
    # At negatives no class is left out, whatever stands in their labels.
    others = binary_not_true_divergence(student, teacher, labels.where(positive, -1), temperature)
    chance = best_probability(teacher.detach(), use_sigmoid=True) * negative
    num_positive, sum_chance = averaged_over_ranks(positive.sum(), chance.sum(), like=student)
    # Ignored priors may hold anything.
    at_positives = others.masked_fill(~positive, 0).sum() / num_positive
    return at_positives + (others * chance).masked_fill(~negative, 0).sum() / sum_chance
