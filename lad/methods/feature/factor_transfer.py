"""Factor transfer: an autoencoder compresses the teacher's maps into factors, which the student learns."""

from __future__ import annotations

from collections.abc import Sequence

from lad.base.phases import Pretraining
from lad.base.settings import check_numbers
from lad.methods.base import Step
from lad.methods.feature.feature_distillation import FeatureDistillation
from lad.methods.feature.maps import as_map

from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class FactorTransferDistillation(FeatureDistillation):
    """A translator of the student's maps learns what a paraphraser has made of the teacher's.

    Kim et al., "Paraphrasing Complex Network: Network Compression via Factor Transfer", NeurIPS 2018, arXiv 1802.04977.
    In the pretraining the paraphrasers, autoencoders of the teacher's maps, learn by L_rec = ||x - P(x)||^2, and the
    student does not run. In the task they rest, and the translators learn with the student by
    :class:`lad.losses.factor_transfer.FTLoss`. The paper has the last map of a classifier; a pyramid's levels have a
    paraphraser and a translator each here.

    Args:
        student: The student's modules, as for :class:`FeatureDistillation`.
        teacher: The teacher's modules, one for each of the student's.
        pretrain: How long the paraphrasers learn, ``dict(epochs=1)`` or ``dict(iters=2000)``.
        rate: k: the part of the teacher's channels that a factor has; 0.5 to 0.75 in the paper.
        loss_weight: Factor of the sum over the pairs: the paper's beta.
        level_weights: Factor of each pair in the order of the maps; 1 if None.
        loss_name: What the task's loss is called; the pretraining's is called ``loss_paraphrase``.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: there is no pretraining: an untrained paraphraser carries no information.
    """

    #: A paraphraser is one teacher's.
    ensembles = False

    def __init__(
        self,
        student: str | Sequence[str] = "neck",
        teacher: str | Sequence[str] = "neck",
        pretrain: dict | None = dict(epochs=1),  # noqa: B006  -- never written to
        rate: float = 0.5,
        loss_weight: float = 500.0,
        level_weights: Sequence[float] | None = None,
        loss_name: str = "loss_ft",
        init_cfg: dict | None = None,
    ) -> None:
        check_numbers(type(self).__name__, above=0, rate=rate)
        super().__init__(
            student,
            teacher,
            loss=dict(type="FTLoss", loss_weight=1.0),
            teacher_transform=dict(type="Paraphraser", rate=rate),
            loss_weight=loss_weight,
            level_weights=level_weights,
            loss_name=loss_name,
            init_cfg=init_cfg,
        )
        if pretrain is None:
            raise self.mistake("it needs pretrain=dict(epochs=NUMBER) or dict(iters=NUMBER).")
        self.pretraining = Pretraining.from_config(
            pretrain, type(self).__name__, adapters=("teacher_transforms",)
        )

    def pretraining_losses(self, step: Step) -> dict[str, Tensor]:
        """Reconstruction loss of the paraphrasers, summed over the teacher's maps."""
        hints = [hint for name in self.teacher for hint in self._maps(step.teacher.target, name)]
        image_size = (step.inputs.shape[-2], step.inputs.shape[-1])
        losses = [
            paraphraser.reconstruction_loss(as_map(hint, image_size))
            for paraphraser, hint in zip(self.teacher_transforms, hints, strict=True)
        ]
        return dict(loss_paraphrase=sum(losses))
