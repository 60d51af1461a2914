"""Backbone and neck with the projection behind them."""

from __future__ import annotations

from lad.networks.backbone_and_neck import pooled_features

from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn


class EmbeddingNetwork(nn.Module):
    """A network and its projection as one module, for frozen copies of both.

    Args:
        network: Detector, or its backbone and neck.
        projection: From its pooled features to embeddings.
    """

    #: Methods that read outputs of teachers' modules get none of it.
    gives = ()

    def __init__(self, network: BaseDetector, projection: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.projection = projection

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, D) embeddings of images (N, C, H, W) as the network's config normalises them."""
        return self.projection(pooled_features(self.network, inputs))
