"""Distillation of activation boundaries: pretraining of the student's backbone."""

from __future__ import annotations

from collections.abc import Sequence

from lad.base.capture import root_of
from lad.base.phases import Pretraining
from lad.base.settings import check_numbers
from lad.methods.base import Step
from lad.methods.feature.pre_activation import STAGES, PreActivationDistillation
from lad.networks.forward import DENSE_HEADS

from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class ActivationBoundaryDistillation(PreActivationDistillation):
    """The student's neurons become active where the teacher's are; then the student is trained as ever.

    Heo et al., AAAI 2019, arXiv 1811.03233: what learns in the pretraining is the student as far as the maps go and
    the connectors, by :class:`lad.losses.activation_boundaries.ABLoss` alone. In the task the method does nothing.

    Args:
        student: The student's modules, by default the later stages of a ResNet. With ``'neck'`` the neck is
            pretrained too.
        teacher: The teacher's modules, one for each of the student's.
        pretrain: How long, ``dict(epochs=1)`` or ``dict(iters=2000)``. None: there is no pretraining, and the loss is
            one of the task's.
        margin: m of the loss.
        connector: As for :class:`FeatureDistillation`; ``'auto'`` is the paper's.
        loss_weight: Factor of the sum over the pairs.
        level_weights: As for :class:`lad.methods.feature.pre_activation.PreActivationDistillation`.
        loss_name: What the loss is called.
        init_cfg: As in MMEngine.
    """

    def __init__(
        self,
        student: str | Sequence[str] = STAGES,
        teacher: str | Sequence[str] = STAGES,
        pretrain: dict | None = dict(epochs=1),  # noqa: B006  -- never written to
        margin: float = 1.0,
        connector: dict | str | None = "auto",
        loss_weight: float = 1.0,
        level_weights: Sequence[float] | str | None = "halving",
        loss_name: str = "loss_ab",
        init_cfg: dict | None = None,
    ) -> None:
        check_numbers(type(self).__name__, minimum=0, margin=margin)
        super().__init__(
            student,
            teacher,
            level_weights,
            loss=dict(type="ABLoss", margin=margin),
            connector=connector,
            loss_weight=loss_weight,
            loss_name=loss_name,
            init_cfg=init_cfg,
        )
        roots = set(map(root_of, self.student_modules))
        learning = (
            "backbone",
            *(["neck"] if roots - {"backbone"} else []),
            *sorted(roots & set(DENSE_HEADS)),
        )
        self.pretraining = Pretraining.from_config(pretrain, type(self).__name__, learning, ("connectors",))

    def modules_read(self, is_pretraining: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Nothing in the task, once there was a pretraining."""
        idle = self.pretraining is not None and not is_pretraining
        return ((), ()) if idle else super().modules_read(is_pretraining)

    def pretraining_losses(self, step: Step) -> dict[str, Tensor]:
        """The weighted sum over the pairs."""
        return super().losses(step)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Nothing, once there was a pretraining."""
        return {} if self.pretraining is not None else super().losses(step)
