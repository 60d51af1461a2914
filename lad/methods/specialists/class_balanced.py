"""Class-balanced distillation: features of teachers that saw the data as they are, for a student that does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lad.base.progress import Progress
from lad.base.schedules import build_schedule
from lad.errors import UnsupportedError
from lad.losses import cosine_distance
from lad.methods.base import Link, SeveralTeachersMethod, Step
from lad.methods.roi.two_stage import averaged_over_ranks
from lad.methods.settings import checked_loss_name
from lad.methods.specialists.classifier_features import FeatureSource
from lad.methods.specialists.roi_features import RoIFeatures
from lad.methods.specialists.tower_features import DenseFeatures
from lad.networks.connectors import build_connector
from lad.networks.routes import SingleTeacher

from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmengine.model import ModuleList
from torch import Size, Tensor


@MODELS.register_module()
class ClassBalancedDistillation(SeveralTeachersMethod):
    """Distillation of classifier features for data with rare classes: the second stage of CBD.

    Iscen et al., "Class-Balanced Distillation for Long-Tailed Visual Recognition", BMVC 2021, arXiv 2104.05279. In the
    first stage teachers are trained on the images as they come, from which features are learnt best; in the second the
    student is trained from scratch on class-balanced samples (``sampler=dict(type='ClassAwareSampler')``), with

        L = (1 - alpha) L_cls + alpha beta (1 - cos(projection of f_S, [f_T1, ..., f_TM])) + the student's other losses,

    where f is what a network's last classification layer sees. The features of several teachers are put together one
    after the other. The projection is a linear layer; it is trained with the student and is no part of the deployed
    network, whose classifier sees f_S itself (in the authors' code it sees the projected features, and the projection
    stays).

    *RoI heads*: f is the output of the last shared layer for the proposals that the student samples, of which those
    with an object count; the teachers' RoI heads see the same proposals on features of their own. *Dense heads*: f is
    the last map of the class tower, at the cells of positive priors, as often as a cell has any. The mean is taken over
    all foreground of all processes. Classes are not compared: teachers may know others.

    Args:
        alpha: Weight of the features against the labels, in [0, 1]. A number, or a schedule
            (:func:`lad.base.schedules.build_schedule`). It scales the classification loss of the RoI head or dense head
            alone: boxes and RPN learn as without the method.
        beta: Factor of the cosine distance.
        connector: Config of the projection; a linear layer by default.
        loss_name: What the loss is called.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: a setting is wrong.
        UnsupportedError: when it is bound: the heads do not fit.
    """

    compares_classes = False
    loss_name: str
    source: FeatureSource

    def __init__(
        self,
        alpha: float | dict = 0.4,
        beta: float = 100.0,
        connector: dict | None = None,
        loss_name: str = "loss_cbd",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        owner = type(self).__name__
        self.alpha = build_schedule(alpha, f"{owner}: alpha", minimum=0, maximum=1)
        self.beta = build_schedule(beta, f"{owner}: beta", minimum=0)
        self.connector = connector
        self.loss_name = checked_loss_name(owner, loss_name)

    def bind_teachers(self, student: BaseDetector, teachers: Mapping[str, SingleTeacher]) -> None:
        """Refuse heads that do not fit; make the projections, one for each stage of a cascade."""
        make = RoIFeatures if hasattr(student, "roi_head") else DenseFeatures
        self.source = make(type(self).__name__, student, teachers)
        self.student_modules = self.source.student_modules
        self.connectors = ModuleList(
            build_connector(self.connector, *(Size((2, width)) for width in widths))
            for widths in self.source.widths
        )

    def modules_of_teacher(self, name: str) -> tuple[str, ...]:
        """What is read of a teacher."""
        return self.source.modules_of_teacher(name)

    def links_of_teacher(self, name: str) -> list[Link]:
        """The modules whose features are compared, and the projection to those of all teachers together."""
        own, taught = self.source.widths[0]
        text = f"{type(self.connectors[0]).__name__} {own} -> {taught}"
        return [Link(*pair, text) for pair in self.source.compared(name)]

    def check_without_labels(self, student: BaseDetector) -> None:
        """Refused: where objects are follows from the labels of the student's own loss."""
        raise UnsupportedError(
            "student_loss=False: ClassBalancedDistillation compares features where the labels of the student's own "
            "loss have objects; without labels SoftLabelDistillation trains a PAA head, RPNDistillation with "
            "RCNNDistillation a Faster R-CNN."
        )

    def loss_weights(self) -> dict[str, float]:
        """alpha beta, of schedules the last."""
        return {self.loss_name: self.alpha.end * self.beta.end}

    def own_class_weight(self, progress: Progress) -> float:
        """1 - alpha."""
        return 1 - self.alpha.at(progress)

    @contextmanager
    def observe(self, step: Step) -> Iterator[None]:
        """Record the labels and features of the student's own loss."""
        with self.source.observe(step) as observed:
            step.observations[self] = observed
            yield

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The weighted cosine distance, of a cascade stage by stage."""
        observed = step.observations[self]
        weight = self.alpha.at(step.progress) * self.beta.at(step.progress)
        terms: dict[str, Tensor] = {}
        for features in self.source.features(step, observed):
            projected = self.connectors[features.connector](features.student)
            distance = cosine_distance(projected, features.teachers)
            (count,) = averaged_over_ranks(features.weight.sum(), like=features.weight)
            mean = (distance * features.weight).sum() / count
            terms[f"{features.prefix}{self.loss_name}"] = weight * features.factor * mean
        for (prefix, number), zero in self.source.terms_without_features(step, observed).items():
            # Other processes may have features here, and wait for this one's numbers.
            averaged_over_ranks(0, like=zero)
            connector = self.connectors[number]
            unused = sum(parameter.sum() for parameter in connector.parameters())
            terms[f"{prefix}{self.loss_name}"] = zero + 0 * unused
        return terms
