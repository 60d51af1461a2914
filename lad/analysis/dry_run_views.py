"""Dry run of a pretraining without labels: what is trained, shapes and losses."""

from __future__ import annotations

from typing import Any

from lad.analysis.tables import text_table
from lad.base.modes import evaluating
from lad.detectors.self_supervised import PROJECTION, SelfSupervisedPretraining
from lad.networks.backbone_and_neck import pooled_features
from lad.networks.channels import image_channels, zero_images
from lad.networks.shapes import SIDE

import torch
from mmdet.structures import DetDataSample
from torch import Tensor, nn


def describe_pretraining(model: SelfSupervisedPretraining) -> str:
    """The parts that a pretraining trains, with their outputs' shapes on two images, and its losses on noise, as text.

    The model trains one step's forward pass: throw it away afterwards.
    """
    header = ["network", "part", "module", "shape of two images", "parameters"]
    rows = [row for name in model.trained_networks for row in _parts(model, name)]
    weights = {
        key: value for method in model.methods.values() for key, value in method.loss_weights().items()
    }
    losses = [
        [name, f"{weights[name]:g}" if name in weights else "", f"{float(value.detach()):.4g}"]
        for name, value in _losses(model).items()
        if "loss" in name
    ]
    return "\n\n".join(
        [
            text_table(header, rows, right={4}, empty="-"),
            f"The checkpoint holds backbone and neck{_deployed(model)} as a plain detector's does; methods: "
            f"{', '.join(model.methods)}.",
            text_table(["loss", "weight", "on noise"], losses, empty="-"),
        ]
    )


def _deployed(model: SelfSupervisedPretraining) -> str:
    return f" of {model.deploy}" if len(model.trained_networks) > 1 else ""


@torch.no_grad()
def _parts(model: SelfSupervisedPretraining, name: str) -> list[list[str]]:
    network, projection = model.trained_networks[name], model.distillation[PROJECTION][name]
    with evaluating(network), evaluating(projection):
        images = zero_images(network, size=(SIDE, SIDE))
        maps = network.backbone(images)
        rows = [_row(name, "backbone", network.backbone, maps)]
        if network.with_neck:
            rows.append(_row(name, "neck", network.neck, network.neck(maps)))
        pooled = pooled_features(network, images)
        rows.append(_row(name, "projection", projection, projection(pooled)))
    return rows


def _row(name: str, part: str, module: nn.Module, outputs: Any) -> list[str]:
    levels = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    shapes = ["x".join(map(str, level.shape)) for level in levels if isinstance(level, Tensor)]
    shown = f"{shapes[0]} .. {shapes[-1]} ({len(shapes)})" if len(shapes) > 2 else ", ".join(shapes)
    return [name, part, type(module).__name__, shown, f"{sum(p.numel() for p in module.parameters()):,}"]


def _losses(model: SelfSupervisedPretraining) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        views = {name: torch.randn(4, image_channels(model.student), SIDE, SIDE) for name in model.views}
        sample = DetDataSample(metainfo=dict(img_shape=(SIDE, SIDE)))
        return model.train().loss(views, {name: [sample] * 4 for name in model.views})
