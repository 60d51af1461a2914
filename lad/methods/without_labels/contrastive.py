"""Contrastive learning (SimCLR): two views of an image are told from those of all others."""

from __future__ import annotations

from collections.abc import Mapping

from lad.base.settings import check_numbers
from lad.losses import nt_xent_loss
from lad.methods.without_labels.base import ViewsStep, WithoutLabelsMethod

from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class ContrastiveLearning(WithoutLabelsMethod):
    """NT-Xent on the embeddings of two views of each image, for every network by itself.

    Chen et al., ICML 2020, arXiv 2002.05709; the loss is :func:`lad.losses.nt_xent_loss`, its mean over the 2 N
    embeddings. The images of all processes are negatives, so that two processes train as one does with the same images;
    those of an accumulated step are not.

    Args:
        temperature: Divides the cosines.
        loss_weight: Factor of the loss.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: the temperature or the factor is not positive.
    """

    def __init__(
        self, temperature: float = 0.1, loss_weight: float = 1.0, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        check_numbers("ContrastiveLearning", above=0, temperature=temperature, loss_weight=loss_weight)
        self.temperature = temperature
        self.loss_weight = loss_weight
        self.terms: dict[str, str] = {}

    def bind(self, networks: Mapping[str, int]) -> None:
        """Name the losses."""
        several = len(networks) > 1
        self.terms = {
            name: f"{name}.loss_contrastive" if several else "loss_contrastive" for name in networks
        }

    def losses(self, step: ViewsStep) -> dict[str, Tensor]:
        """``loss_contrastive``; where there are several networks ``NETWORK.loss_contrastive`` of each."""
        losses = {}
        for name, own in step.networks.items():
            rows = nt_xent_loss(own.first, own.second, self.temperature, own.every.views, own.every.start)
            losses[self.terms[name]] = self.loss_weight * rows.mean()
        return losses

    def loss_weights(self) -> dict[str, float]:
        """The weight of each network's loss."""
        return dict.fromkeys(self.terms.values(), self.loss_weight)
