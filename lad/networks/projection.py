"""Projection head of contrastive learning."""

from __future__ import annotations

from lad.errors import ConfigError

from mmcv.cnn import build_norm_layer
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn


@MODELS.register_module()
class ProjectionHead(BaseModule):
    """Layers between pooled features and the embeddings that are compared.

    As in SimCLRv2 (Chen et al., NeurIPS 2020, arXiv 2006.10029): linear layers with batch norm, and a ReLU after each
    but the last.

    Args:
        in_channels: Channels of the pooled features.
        hidden_channels: Channels of the hidden layers; by default ``in_channels``, as in the authors' code.
        out_channels: Channels of the embeddings.
        num_layers: Number of linear layers.
        norm_cfg: Config of the norm after each linear layer; None for none.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: a number is not positive.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | None = None,
        out_channels: int = 128,
        num_layers: int = 3,
        norm_cfg: dict | None = dict(type="BN1d"),  # noqa: B006 -- MMDetection's idiom; never changed
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        hidden = in_channels if hidden_channels is None else hidden_channels
        if min(hidden, out_channels, num_layers) < 1:
            raise ConfigError(
                "ProjectionHead: hidden_channels, out_channels and num_layers must be at least 1, got "
                f"{hidden}, {out_channels} and {num_layers}."
            )
        widths = [in_channels, *[hidden] * (num_layers - 1), out_channels]
        layers: list[nn.Module] = []
        for number in range(num_layers):
            layers.append(nn.Linear(widths[number], widths[number + 1], bias=norm_cfg is None))
            if norm_cfg is not None:
                layers.append(build_norm_layer(norm_cfg, widths[number + 1])[1])
            if number < num_layers - 1:
                layers.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """(N, out_channels) of (N, in_channels)."""
        return self.layers(features)
