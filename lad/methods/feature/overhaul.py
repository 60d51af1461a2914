"""The overhaul of feature distillation: margin ReLU, before the activation, partial L2."""

from __future__ import annotations

from collections.abc import Sequence

from lad.base.capture import find_module
from lad.errors import UnsupportedError
from lad.losses.overhaul import MarginReLU, negative_expectation
from lad.methods.feature.checks import check_whole_image
from lad.methods.feature.maps import channels_of
from lad.methods.feature.pairs import Pair
from lad.methods.feature.pre_activation import STAGES, PreActivationDistillation, last_block
from lad.networks.routes import Teacher

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@MODELS.register_module()
class OverhaulDistillation(PreActivationDistillation):
    """The student's responses before the activation become the teacher's, as far as the next layer sees them.

    Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019, arXiv 1904.01866: the sum over the stages
    of d_p(max(T, m), r(S)), T and S before the ReLU, r a 1x1 convolution and a batch norm, d_p of
    :func:`lad.losses.overhaul.partial_l2_loss`. The margin m of a channel is the expectation of its negative responses,
    from the bias (mean) and the weight (deviation) of the teacher's batch norm before the position, as if the shortcut
    of the block added nothing, as in the paper.

    Args:
        student: The student's modules, by default the later stages of a ResNet.
        teacher: The teacher's modules, one for each of the student's.
        norms: The teacher's batch norm before each of its modules, by name. By default the last one of a stage of a
            ResNet; what is no such stage needs it.
        connector: As for :class:`FeatureDistillation`; ``'auto'`` is the paper's.
        loss_weight: Factor of the sum over the pairs. The paper's is for the sum over all neurons of small images.
        level_weights: As for :class:`lad.methods.feature.pre_activation.PreActivationDistillation`.
        loss_name: What the loss is called.
        init_cfg: As in MMEngine.
    """

    needs_frozen = "its margins follow from the statistics of trained batch norms"

    def __init__(
        self,
        student: str | Sequence[str] = STAGES,
        teacher: str | Sequence[str] = STAGES,
        norms: str | Sequence[str] | None = None,
        connector: dict | str | None = "auto",
        loss_weight: float = 1.0,
        level_weights: Sequence[float] | str | None = "halving",
        loss_name: str = "loss_ofd",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            student,
            teacher,
            level_weights,
            loss=dict(type="OFDLoss"),
            connector=connector,
            loss_weight=loss_weight,
            loss_name=loss_name,
            init_cfg=init_cfg,
        )
        self.norms = [norms] if isinstance(norms, str) else norms
        if self.norms is not None and len(self.norms) != len(self.teacher):
            raise self.mistake(
                f"{len(self.norms)} norms for {len(self.teacher)} of the teacher's modules; name one for each."
            )

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Find the batch norms, then pair the maps."""
        check_whole_image(type(self).__name__, teacher.model, self.teacher_modules)
        norms: Sequence[str | None] = self.norms or [last_norm(teacher.model, name) for name in self.teacher]
        self.teacher_norms: list[str] = []
        for norm, name in zip(norms, self.teacher, strict=True):
            module = None if norm is None else find_module(teacher.model, norm)
            if norm is None or not isinstance(module, _BatchNorm):
                found = "no" if module is None else f"{norm!r}, a {type(module).__name__}, and no"
                raise UnsupportedError(
                    f"{type(self).__name__}: {name!r} of the teacher has {found} batch norm before it, from which the "
                    "margins follow; name a stage of a ResNet, or norms=[...], and leave out speed=dict(fuse=True)."
                )
            self.teacher_norms.append(norm)
        super().bind(student, teacher)

    def make_teacher_transform(self, pair: Pair, hint: Tensor, teacher: BaseDetector) -> nn.Module:
        """The margin ReLU of a map."""
        named = next(
            name for name in self.teacher if pair.teacher == name or pair.teacher.startswith(f"{name}[")
        )
        norm = find_module(teacher, self.teacher_norms[self.teacher.index(named)])
        assert isinstance(norm, _BatchNorm)  # bind() has refused others
        if norm.num_features != channels_of(hint):
            raise UnsupportedError(
                f"the batch norm has {norm.num_features} channels and the teacher's map {channels_of(hint)}"
            )
        mean, std = (norm.bias, norm.weight.abs()) if norm.affine else (torch.zeros(1), torch.ones(1))
        margin = negative_expectation(mean.detach(), std.detach())
        return MarginReLU(margin.expand(norm.num_features).clone())


def last_norm(model: BaseDetector, name: str) -> str | None:
    """The batch norm at the end of the last block of a ResNet's stage, by name; None for what is not one."""
    block = last_block(model, name)
    if block is None:
        return None
    module = find_module(model, block)
    return f"{block}.{getattr(module, 'norm3_name', module.norm2_name)}"
