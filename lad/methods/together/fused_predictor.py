"""A predictor on the fused feature maps of several networks."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lad.base.capture import capture
from lad.exchange.labels import DenseLabels, reading_labels
from lad.heads.dense import class_logits
from lad.methods.response.dense import labels_of
from lad.networks.fusion import LevelwiseSeparableConv

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.structures import SampleList
from mmengine.model import BaseModule
from torch import Tensor


@dataclass(frozen=True)
class FusedPrediction:
    """What a fused predictor makes of a batch.

    Attributes:
        inputs: The networks' maps side by side, (N, sum of C, H, W) of each level, without gradient.
        maps: The fused maps, (N, C, H, W) of each level.
        logits: (N, P, classes) class logits.
        labels: What its head trains on.
        losses: Its own losses by name.
    """

    inputs: list[Tensor]
    maps: list[Tensor]
    logits: Tensor
    labels: DenseLabels
    losses: dict[str, Any]


class FusedPredictor(BaseModule):
    """Fuses the maps of several networks' necks level by level, and predicts from them with a copy of a head.

    The feature fusion module of FFSD (Li et al., "Distilling a Powerful Student Model via Online Knowledge
    Distillation", TNNLS 2022, arXiv 2103.14473). It does not train the networks.

    Args:
        head: The head that is copied; its copy is initialised anew by ``init_weights``.
        channels: Channels of each level of all networks together.
        widths: Channels of each level that the head takes.
        norm_cfg: Config of the norms.
    """

    def __init__(
        self, head: BaseDenseHead, channels: Sequence[int], widths: Sequence[int], norm_cfg: dict
    ) -> None:
        super().__init__()
        self.fuse = LevelwiseSeparableConv(channels, widths, norm_cfg)
        self.bbox_head = copy.deepcopy(head)

    def forward(self, maps: Mapping[str, Sequence[Tensor]], data_samples: SampleList) -> FusedPrediction:
        """Predict, and compare with the ground truth.

        Args:
            maps: The maps of each network's neck, by network.
            data_samples: Ground truth and metadata.
        """
        inputs = [torch.cat(level, dim=1).detach() for level in zip(*maps.values(), strict=True)]
        fused = self.fuse(inputs)
        with capture(self, ["bbox_head"]) as outputs, reading_labels(self.bbox_head) as reader:
            losses = self.bbox_head.loss(tuple(fused), data_samples)
        predicted = outputs["bbox_head"]
        return FusedPrediction(
            inputs=inputs,
            maps=fused,
            logits=class_logits(self.bbox_head, predicted),
            labels=labels_of(self.bbox_head, predicted, reader),
            losses=losses,
        )
