"""Hint learning: the student's features, adapted, are to be the teacher's."""

from __future__ import annotations

from collections.abc import Sequence

from lad.capture import find_module, levels_of, split_level
from lad.connectors import build_connector, match_size
from lad.errors import ConfigError, UnsupportedError
from lad.losses import hint_loss
from lad.losses.hint import NORMS
from lad.methods.base import DistillationMethod, Step
from lad.teacher import DENSE_HEADS, FrozenTeacher, dry_run

import torch
from mmdet.models.detectors import DetectionTransformer
from mmdet.registry import MODELS
from mmengine.model import ModuleList
from torch import Tensor, nn

WHOLE_IMAGE = ("backbone", "neck", *DENSE_HEADS)


@MODELS.register_module()
class HintDistillation(DistillationMethod):
    """The teacher's intermediate features as hints for the student's.

    Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation", NIPS 2017, Sec. 3.4:
    L = gamma ||A(V) - Z||^2 (L2) or gamma ||A(V) - Z||_1 (L1), with the student's features V, an adaptation layer A and
    the teacher's features Z. The adaptation is a 1x1 convolution even where the channels agree, which the paper finds
    to be better. The norm is averaged over the elements of a feature map, and over the maps where there are several.

    Args:
        student: Name of the student's module, or several: ``'neck'``, ``'backbone.layer3'``. A module that puts out
            several maps means all of them; ``'neck[1]'`` means the second.
        teacher: The teacher's modules, one for each of the student's.
        gamma: Weight of the loss.
        norm: ``'l2'`` or ``'l1'``.
        connector: Config of the adaptation layers; channels are filled in. By default a 1x1 convolution for maps, a
            linear layer for tokens and vectors.
        loss_name: What the loss is called, where there are several hints.
        init_cfg: As in MMEngine.
    """

    compares_classes = False

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
        super().__init__(init_cfg=init_cfg)
        if norm not in NORMS:
            raise ConfigError(f"HintDistillation: norm must be one of {', '.join(NORMS)}, got {norm!r}.")
        if "loss" not in loss_name:
            raise ConfigError(f"HintDistillation: loss_name must contain 'loss', got {loss_name!r}.")
        self.student = [student] if isinstance(student, str) else list(student)
        self.teacher = [teacher] if isinstance(teacher, str) else list(teacher)
        if len(self.student) != len(self.teacher):
            raise ConfigError(
                f"HintDistillation: {len(self.student)} modules of the student and {len(self.teacher)} of the "
                "teacher; name one for each."
            )
        self.gamma = gamma
        self.norm = norm
        self.connector = connector
        self.loss_name = loss_name
        self.student_modules = tuple(dict.fromkeys(split_level(name)[0] for name in self.student))
        self.teacher_modules = tuple(dict.fromkeys(split_level(name)[0] for name in self.teacher))

    def bind(self, student: nn.Module, teacher: FrozenTeacher) -> None:
        """Build an adaptation layer for each pair of feature maps, from the shapes for a small image."""
        for model, names in ((student, self.student_modules), (teacher.model, self.teacher_modules)):
            for name in names:
                find_module(model, name)
                has_queries = isinstance(model, DetectionTransformer) and name.split(".")[0] in DENSE_HEADS
                if name.split(".")[0] not in WHOLE_IMAGE or has_queries:
                    raise UnsupportedError(
                        f"HintDistillation: {name!r} of {type(model).__name__} does not see the whole image, so two "
                        f"detectors' features do not correspond; it works with modules of {', '.join(WHOLE_IMAGE)}."
                    )
        own, taught = dry_run(student, self.student_modules), teacher.dry_run(self.teacher_modules)
        connectors = []
        for own_name, taught_name in zip(self.student, self.teacher, strict=True):
            pair = []
            for outputs, full_name in ((own, own_name), (taught, taught_name)):
                name, level = split_level(full_name)
                try:
                    pair.append(levels_of(outputs.calls(name), level))
                except ConfigError as error:
                    raise ConfigError(f"HintDistillation: {full_name!r}: {error}") from error
            if len(pair[0]) != len(pair[1]) or not pair[0]:
                raise ConfigError(
                    f"HintDistillation: {own_name!r} puts out {len(pair[0])} feature maps for the student and "
                    f"{taught_name!r} {len(pair[1])} for the teacher; name one of them, such as 'neck[0]'."
                )
            connectors += [
                build_connector(self.connector, a.shape, b.shape) for a, b in zip(*pair, strict=True)
            ]
        self.connectors = ModuleList(connectors)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """``loss_hint``; gradients reach the student and the adaptation layers."""
        own, taught = [], []
        for own_name, taught_name in zip(self.student, self.teacher, strict=True):
            name, level = split_level(own_name)
            own += levels_of(step.outputs.calls(name), level)
            name, level = split_level(taught_name)
            taught += levels_of(step.teacher.target(name), level)
        self._check_gradients(step)
        distances = [
            hint_loss(adapt(connector, features, hint), hint, self.norm).mean()
            for connector, features, hint in zip(self.connectors, own, taught, strict=True)
        ]
        return {self.loss_name: self.gamma * sum(distances) / len(distances)}

    def _check_gradients(self, step: Step) -> None:
        """Refuse a module that trains and whose outputs are cut off from it; nothing else would say so."""
        if not torch.is_grad_enabled():
            return
        for name in self.student_modules:
            features = levels_of(step.outputs.calls(name), None)
            trains = any(p.requires_grad for p in find_module(step.student, name).parameters())
            if trains and not any(feature.requires_grad for feature in features):
                raise UnsupportedError(
                    f"HintDistillation: what {name!r} puts out has no gradient: a module inside of a checkpointed "
                    "block (with_cp=True) cannot be taught; name the whole stage, such as 'backbone.layer3'."
                )


def adapt(connector: nn.Module, features: Tensor, hint: Tensor) -> Tensor:
    """The student's features with the channels and the resolution of the teacher's ``hint``."""
    adapted = connector(features)
    return match_size(adapted, hint.shape[-2:]) if hint.dim() == 4 else adapted
