"""Pretraining on data that is spread over clients: local images compared by the global network too (FedX)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lad.base.settings import check_numbers
from lad.errors import ConfigError
from lad.losses import nt_xent_loss, relation_agreement_loss
from lad.methods.without_labels.base import Embeddings, SnapshotEmbeddings, ViewsStep, WithoutLabelsMethod
from lad.methods.without_labels.gathering import gather_views
from lad.networks.projection import ProjectionHead

import torch
from mmdet.registry import MODELS
from mmengine.model import ModuleDict
from torch import Tensor


@MODELS.register_module()
class FedX(WithoutLabelsMethod):
    """Knowledge distillation of a client's pretraining from the global network, and from itself.

    Han et al., "FedX: Unsupervised Federated Learning with Cross Knowledge Distillation", ECCV 2022, arXiv 2207.09158.
    The global network g is the one that a round began with: a frozen copy of the trained one, with its projection. With
    z_k the embedding of view k, q_k its prediction (two more linear layers on z_k, of this method), z_k^g the global
    network's embedding, and r the embeddings of other images of the client, the losses beside NT-Xent of z_1 and z_2
    (:class:`ContrastiveLearning`, with the temperature of 0.1) are

        ``loss_global_contrastive``: NT-Xent of q_1 and z_2^g (:func:`lad.losses.nt_xent_loss`),
        ``loss_local_relation``:     relations of z_1 and z_2 to r (:func:`lad.losses.relation_agreement_loss`),
        ``loss_global_relation``:    relations of q_1 and q_2 to r^g.

    The global network is in eval mode and constant; in the relations the mean of both views is constant too, which it
    is not in the authors' code. The other images are the third view of ``ViewsDataset(references=True)``, one for each
    image. Those of all processes are compared, so that two processes train as one does with the same images.

    Args:
        global_contrastive, local_relation, global_relation: Factor of each loss; one of 0 is not computed.
        temperature: Divides the cosines of all three.
        target_temperature: Divides those of the relations' target.
        prediction: Settings of :class:`lad.networks.projection.ProjectionHead` for the predictions; by default two
            layers as wide as the embeddings, without norm.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: a weight is negative, all are 0, or a temperature is not positive.
    """

    needs_references = True

    def __init__(
        self,
        global_contrastive: float = 1.0,
        local_relation: float = 1.0,
        global_relation: float = 1.0,
        temperature: float = 0.1,
        target_temperature: float = 0.1,
        prediction: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.weights = dict(
            global_contrastive=global_contrastive,
            local_relation=local_relation,
            global_relation=global_relation,
        )
        check_numbers("FedX", minimum=0, **self.weights)
        if not any(self.weights.values()):
            raise ConfigError("FedX: all weights are 0: leave the method out, or set one of them.")
        check_numbers("FedX", above=0, temperature=temperature, target_temperature=target_temperature)
        self.temperature = temperature
        self.target_temperature = target_temperature
        self.prediction_settings = prediction or {}
        self.needs_snapshots = bool(global_contrastive or global_relation)
        self.prediction = ModuleDict()
        self.prefixes: dict[str, str] = {}

    def bind(self, networks: Mapping[str, int]) -> None:
        """Build each network's prediction."""
        for name, width in networks.items():
            self.prefixes[name] = f"{name}.loss_" if len(networks) > 1 else "loss_"
            if self.needs_snapshots:
                layers = dict(in_channels=width, out_channels=width, num_layers=2, norm_cfg=None)
                self.prediction[name] = MODELS.build(
                    dict(type=ProjectionHead) | layers | self.prediction_settings
                )

    def losses(self, step: ViewsStep) -> dict[str, Tensor]:
        """The terms with a weight above 0 of each network; of several, ``NETWORK.loss_...``."""
        losses: dict[str, Tensor] = {}
        for name, prefix in self.prefixes.items():
            own = step.networks[name]
            terms = dict(self._global(name, own, step.snapshots[name])) if self.needs_snapshots else {}
            if self.weights["local_relation"]:
                terms["local_relation"] = self._relation(own.first, own.second, own.references)
            losses |= {f"{prefix}{term}": self.weights[term] * value for term, value in terms.items()}
        return losses

    def _global(self, name: str, own: Embeddings, taught: SnapshotEmbeddings) -> Iterator[tuple[str, Tensor]]:
        """What a network learns from its snapshot."""
        first, second = self.prediction[name](torch.cat([own.first, own.second])).chunk(2)
        if self.weights["global_contrastive"]:
            every = gather_views(first, taught.second)
            rows = nt_xent_loss(first, taught.second, self.temperature, every.views, every.start)
            yield "global_contrastive", rows.mean()
        if self.weights["global_relation"]:
            yield "global_relation", self._relation(first, second, taught.references)

    def _relation(self, first: Tensor, second: Tensor, references: Tensor | None) -> Tensor:
        assert references is not None, "the detector embeds them for a method that needs them"
        rows = relation_agreement_loss(first, second, references, self.temperature, self.target_temperature)
        return rows.mean()

    def loss_weights(self) -> dict[str, float]:
        """The factor of each loss."""
        return {
            f"{prefix}{term}": weight
            for prefix in self.prefixes.values()
            for term, weight in self.weights.items()
            if weight
        }
