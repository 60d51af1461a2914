"""Networks that are pretrained together and learn each other's similarities of images (DoGo)."""

from __future__ import annotations

from collections.abc import Mapping

from lad.base.settings import check_numbers
from lad.errors import ConfigError, listed, nearest
from lad.losses import similarity_divergence
from lad.methods.without_labels.base import Embeddings, ViewsStep, WithoutLabelsMethod

import torch
from mmdet.registry import MODELS
from torch import Tensor

#: The authors' weight of the mean over the B x B terms of a batch of 256 images, as one of the mean over its rows.
AUTHORS_WEIGHT = 100 / 256


@MODELS.register_module()
class SimilarityDistillation(WithoutLabelsMethod):
    """Networks pretrained at once, each of which learns every other's similarities of images beside its own loss.

    Bhat et al., CVPR workshops 2021, arXiv 2104.09866 (DoGo). With :class:`ContrastiveLearning` at a temperature of 0.5
    beside it, the loss of network i of K is

        L_i = NT-Xent_i + weight_i / (K - 1) * sum over j != i of mean over images of KL(S_j || S_i),

    S_i the softmax, at a temperature of 0.1, of the cosines of the first view of an image with the second views of all
    images of the batch, and S_j constant (:func:`lad.losses.similarity_divergence`). All networks see the same views.
    The images of all processes are compared, so that two processes train as one does with the same images.

    The mean is over images (rows). The authors average the B x B terms, so that their weight of 100 at a batch size B
    of 256 is 100 / 256 = 0.39 here, the default; their weights of two peers differ up to a hundredfold, so that a
    single one is not the best of every pair.

    Args:
        weight: Factor of every network's term, or a dict of one for each network, ``dict(small=1.0, big=0.01)``. A
            network with a factor of 0 teaches and does not learn from the others.
        temperature: Divides the cosines.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: a setting is out of range, or there is no other network to learn from.
    """

    weights: Mapping[str, float]

    def __init__(
        self,
        weight: float | Mapping[str, float] = AUTHORS_WEIGHT,
        temperature: float = 0.1,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        check_numbers("SimilarityDistillation", above=0, temperature=temperature)
        weights = (
            {f"weight of {name}": value for name, value in weight.items()}
            if isinstance(weight, Mapping)
            else dict(weight=weight)
        )
        check_numbers("SimilarityDistillation", minimum=0, **weights)
        if not any(weights.values()):
            raise ConfigError(
                "SimilarityDistillation: weight is 0 for all networks, and nothing is learnt: leave the method out, or "
                "give one a weight."
            )
        self.weight = weight
        self.temperature = temperature

    def bind(self, networks: Mapping[str, int]) -> None:
        """Refuse a single network, and weights of networks that are not there."""
        if len(networks) < 2:
            raise ConfigError(
                "SimilarityDistillation: networks learn from each other, and there is one: give several, "
                "networks=dict(small=CONFIG, big=CONFIG), instead of student."
            )
        if not isinstance(self.weight, Mapping):
            self.weights = dict.fromkeys(networks, self.weight)
            return
        for name in self.weight:
            if name not in networks:
                raise ConfigError(
                    f"SimilarityDistillation: weight names {name!r}{nearest(str(name), networks)}; the networks are "
                    f"{listed(networks, 5)}."
                )
        if missing := [name for name in networks if name not in self.weight]:
            raise ConfigError(
                f"SimilarityDistillation: weight has no factor of network {missing[0]!r}; 0 leaves its term out."
            )
        self.weights = dict(self.weight)

    def losses(self, step: ViewsStep) -> dict[str, Tensor]:
        """``NETWORK.loss_similarity`` of each network with a factor above 0."""
        return {
            self.term(name): weight * self._divergence(step.networks, name)
            for name, weight in self.weights.items()
            if weight > 0
        }

    def _divergence(self, networks: Mapping[str, Embeddings], learner: str) -> Tensor:
        """The mean over images and over the other networks."""
        own = networks[learner]
        rows = [
            similarity_divergence(
                own.first, own.every.views[1], other.first, other.every.views[1], self.temperature
            )
            for name, other in networks.items()
            if name != learner
        ]
        return torch.stack(rows).mean()

    @staticmethod
    def term(network: str) -> str:
        """Name of a network's loss."""
        return f"{network}.loss_similarity"

    def loss_weights(self) -> dict[str, float]:
        """The factor of each network's loss."""
        return {self.term(name): weight for name, weight in self.weights.items()}
