"""Hint learning: the distance between the student's adapted features and the teacher's."""

from __future__ import annotations

from collections.abc import Sequence

from lad.errors import ConfigError
from lad.losses.hint import NORMS
from lad.methods.feature.feature_distillation import FeatureDistillation
from lad.methods.feature.gradient_share import build_weight

from mmdet.registry import MODELS


@MODELS.register_module()
class HintDistillation(FeatureDistillation):
    """The teacher's intermediate features as hints for the student's.

    Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation", NIPS 2017, Sec. 3.4:
    L = gamma ||A(V) - Z||^2 (L2) or gamma ||A(V) - Z||_1 (L1), with the student's features V, an adaptation layer A and
    the teacher's features Z. The adaptation is a 1x1 convolution even where the channels agree, which the paper finds
    to be better. The norm is averaged over the elements of a feature map, and over the maps where there are several.

    Args:
        student: Name of the student's module, or several: ``'neck'``, ``'backbone.layer3'``. A module that returns
            several maps means all of them; ``'neck[1]'`` means the second.
        teacher: The teacher's modules, one for each of the student's.
        gamma: Weight of the loss.
        norm: ``'l2'`` or ``'l1'``.
        connector: Config of the adaptation layers; channels are filled in. By default a 1x1 convolution for maps, a
            linear layer for tokens and vectors.
        loss_name: What the loss is called, where there are several hints.
        init_cfg: As in MMEngine.
    """

    def __init__(
        self,
        student: str | Sequence[str] = "neck",
        teacher: str | Sequence[str] = "neck",
        gamma: float = 0.5,
        norm: str = "l2",
        connector: dict | None = None,
        loss_name: str = "loss_hint",
        init_cfg: dict | None = None,
    ) -> None:
        if norm not in NORMS:
            raise ConfigError(f"HintDistillation: norm must be one of {', '.join(NORMS)}, got {norm!r}.")
        super().__init__(
            student,
            teacher,
            loss=dict(type="HintLoss", norm=norm),
            connector=connector or "projection",
            loss_weight=build_weight(gamma, "HintDistillation: gamma"),
            average=True,
            loss_name=loss_name,
            init_cfg=init_cfg,
        )
