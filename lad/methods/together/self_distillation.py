"""Self-distillation: a network's exits learn from its own deepest predictor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from lad.base.progress import Progress
from lad.base.schedules import build_schedule
from lad.errors import ConfigError
from lad.methods.base import Link, Step
from lad.methods.feature.feature_distillation import FeatureDistillation
from lad.methods.response.dense import (
    DenseDistillation,
    check_dense_heads,
    check_labels_known,
    default_logit_loss,
)
from lad.methods.response.dense_logits import DenseLogitDistillation
from lad.networks.routes import Teacher

from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class SelfDistillation(DenseDistillation):
    """Each exit of a network learns its labels, and the logits and features of the network's own deepest predictor.

    Zhang et al., "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self Distillation"
    (BYOT), ICCV 2019, arXiv 1905.08094, Sec. 3. The loss of exit k is

        (1 - alpha) own_k + alpha temperature^2 KL(deep || exit k) + feature_weight ||F_k - F_deep||,

    beside the network's own loss, which stays as it is; ``feature_weight`` is the paper's lambda. The defaults are
    those of MMRazor's config. What the deep side predicts is constant: the terms train the exit's neck and head and, as
    the exit's own loss does, the part of the backbone that the exit shares; they do not reach the network's neck, its
    head, or the stages of its backbone behind the exit.

    On a detector:

    * Logits: compared at every prior that counts in the exit's own loss, summed over the priors and divided by what
      MMDetection's head divides the classification loss beside it by, for most heads the number of positives. Boxes are
      learnt from the labels alone. For softmax classifiers it is the paper's temperature^2 KL. For sigmoid classifiers
      it is ``QualityKDLoss``, which weighs a prior by how far the two are apart: nearly all priors are background, and
      a KL, most of all at a temperature, learns the teacher's shades of it instead of the objects
      (docs/learning_together.md has figures).
    * Features: the maps of the exit's neck and of the network's, of the same stride. The norm is taken over the
      channels at each position (:func:`lad.losses.feature_distance_loss`), then the mean over positions, images and
      levels; MMRazor takes one square root over the whole batch, so that its weight depends on the batch's size.

    In a config it needs neither ``learner`` nor ``taught_by``: it trains every exit of the deployed network, each
    taught by the network. ``learner='b'`` means the exits of network b, ``learner='b.early'`` one of them;
    ``taught_by`` may be any other teacher. The own losses of the exits are logged with their factor 1 - alpha.

    Where labels are assigned by predictions (PAA, TOOD, RTMDet, YOLOX, DDOD), an exit decides its own positives;
    ``LabelAssignmentDistillation(learner='student.early', taught_by='student')`` gives it those of its network.

    Args:
        alpha: Weight of the logits against the labels, in [0, 1]. A number, or a schedule such as
            ``dict(type='linear', end=0.3, epochs=5)``; see :func:`lad.base.schedules.build_schedule`. So are the next
            two.
        temperature: Of a KL, above 0, by default 3. A loss without one, such as the default of sigmoid classifiers,
            takes none.
        feature_weight: Weight of the features; with 0 they are not compared.
        loss: Config of a loss of (n, C) logits. By default ``QualityKDLoss`` for sigmoid classifiers and ``KDLoss`` for
            softmax; ``dict(type='KDLoss')`` is the paper's for both.
        connector: Adaptation layer of the exit's maps; see :class:`FeatureDistillation`.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: a setting is wrong.
        UnsupportedError: the heads do not correspond.
    """

    trains_exits = True

    def __init__(
        self,
        alpha: float | dict = 0.3,
        temperature: float | dict | None = None,
        feature_weight: float | dict = 0.03,
        loss: dict | None = None,
        connector: dict | str | None = "auto",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.alpha = build_schedule(alpha, "SelfDistillation: alpha", minimum=0, maximum=1)
        self.has_temperature = temperature is not None
        self.temperature = build_schedule(
            3.0 if temperature is None else temperature, "SelfDistillation: temperature", above=0
        )
        self.feature_weight = build_schedule(feature_weight, "SelfDistillation: feature_weight", minimum=0)
        if loss is not None and "temperature" in loss:
            raise ConfigError("SelfDistillation: temperature is a setting of the method, not of its loss.")
        self.loss_config = loss
        # Neither is computed where its weight is 0 throughout.
        self.logits: DenseLogitDistillation | None = None
        self.features = None
        if not self.feature_weight.is_zero:
            self.features = FeatureDistillation(
                loss=dict(type="FeatureDistanceLoss"), connector=connector, average=True
            )
            self.student_modules = self.teacher_modules = ("bbox_head", "neck")

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Refuse heads whose class scores do not correspond; pair the maps."""
        heads = self.heads(student, teacher)
        check_dense_heads("SelfDistillation", heads, (student, teacher.model))
        check_labels_known("SelfDistillation", heads[0])
        if not self.alpha.is_zero:
            self.logits = DenseLogitDistillation(self.loss_config or default_logit_loss(heads[0]))
        for part in (self.logits, self.features):
            if part is not None:
                part.bind(student, teacher)
        if self.logits is not None and self.has_temperature and not hasattr(self.logits.loss, "temperature"):
            raise ConfigError(
                f"SelfDistillation: temperature has no meaning for {type(self.logits.loss).__name__}: leave it out, or "
                "set loss=dict(type='KDLoss')."
            )

    @contextmanager
    def observe(self, step: Step) -> Iterator[None]:
        """Record the labels of the exit's own loss, where logits are compared."""
        with nullcontext() if self.logits is None else self.logits.observe(step):
            yield

    def own_loss_weight(self, progress: Progress) -> float:
        """1 - alpha."""
        return 1 - self.alpha.at(progress)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """``loss_self_logits`` and ``loss_self_features``; gradients reach the exit and what it shares."""
        terms = {}
        if self.logits is not None:
            # A function of the step alone, so that a resumed run continues with the same value.
            loss: Any = self.logits.loss
            if hasattr(loss, "temperature"):
                loss.temperature = self.temperature.at(step.progress)
            [value] = self.logits.losses(step).values()
            terms["loss_self_logits"] = self.alpha.at(step.progress) * value
        if self.features is not None:
            [value] = self.features.losses(step).values()
            terms["loss_self_features"] = self.feature_weight.at(step.progress) * value
        return terms

    def links(self) -> list[Link]:
        """The heads, and the maps of the two necks."""
        logits = [] if self.logits is None else self.logits.links()
        return [*logits, *([] if self.features is None else self.features.links())]

    def loss_weights(self) -> dict[str, float]:
        """The weights of both terms at the end of their schedules."""
        weights = {"loss_self_logits": self.alpha.end, "loss_self_features": self.feature_weight.end}
        return {name: weight for name, weight in weights.items() if weight}
