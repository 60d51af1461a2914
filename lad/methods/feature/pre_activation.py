"""Feature distillation before the activation, with the negative responses that a ReLU cuts off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lad.base.capture import INPUT, find_module, split_level
from lad.methods.feature.checks import check_whole_image
from lad.methods.feature.feature_distillation import FeatureDistillation
from lad.networks.routes import Teacher

from mmdet.models.backbones.resnet import BasicBlock, Bottleneck
from mmdet.models.detectors import BaseDetector
from torch import nn

#: The end of each stage of a ResNet that learns in MMDetection's configs, which freeze the first.
STAGES = ("backbone.layer2", "backbone.layer3", "backbone.layer4")


class PreActivationDistillation(FeatureDistillation):
    """Feature distillation of maps before their activation.

    A stage of a ResNet (ResNeXt, Res2Net, ...) stands for the input of the ReLU at its end. Any other module stands
    for its output: an FPN's levels have no activation behind them. ``'NAME:input'`` is the input of a module.

    Args:
        student, teacher: Modules as for :class:`FeatureDistillation`.
        level_weights: Factor of each pair, in the order of the maps. ``'halving'``: 1 for the last, half of it for the
            one before, and so on, as in the code of Heo et al.; None: 1 for each.
        settings: As for :class:`FeatureDistillation`.
    """

    #: Teachers' stages differ in length, and so do the names of their ends.
    ensembles = False

    def __init__(
        self,
        student: str | Sequence[str] = STAGES,
        teacher: str | Sequence[str] = STAGES,
        level_weights: Sequence[float] | str | None = "halving",
        **settings: Any,
    ) -> None:
        self.halves = level_weights == "halving"
        if isinstance(level_weights, str) and not self.halves:
            raise self.mistake(f"level_weights must be 'halving', numbers or None, got {level_weights!r}.")
        factors = None if isinstance(level_weights, str) else level_weights
        super().__init__(student, teacher, level_weights=factors, **settings)

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Find the ends of the stages, then pair the maps."""
        check_whole_image(type(self).__name__, student, self.student_modules)
        check_whole_image(type(self).__name__, teacher.model, self.teacher_modules)
        self.student = [before_activation(student, name) for name in self.student]
        self.teacher = [before_activation(teacher.model, name) for name in self.teacher]
        self.student_modules = tuple(dict.fromkeys(split_level(name)[0] for name in self.student))
        self.teacher_modules = tuple(dict.fromkeys(split_level(name)[0] for name in self.teacher))
        super().bind(student, teacher)
        if self.halves:
            self.level_weights = [0.5**later for later in reversed(range(len(self.pairs)))]


def last_block(model: BaseDetector, name: str) -> str | None:
    """The name of the last block of a ResNet's stage; None for what is not one."""
    module = find_module(model, split_level(name)[0])
    if not isinstance(module, nn.Sequential) or len(module) == 0 or name.endswith("]"):
        return None
    return f"{name}.{len(module) - 1}" if isinstance(module[-1], (BasicBlock, Bottleneck)) else None


def before_activation(model: BaseDetector, name: str) -> str:
    """Name of what to capture for a module's output before its activation.

    Args:
        model: The detector.
        name: ``'backbone.layer3'`` becomes ``'backbone.layer3.5.relu:input[-1]'``, the last thing that the ReLU of the
            last block is given; the name of what is not a ResNet's stage stays as it is.
    """
    block = last_block(model, name)
    return name if block is None else f"{block}.relu{INPUT}[-1]"
