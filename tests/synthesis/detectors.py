"""Small detectors whose batch norms have the statistics of smooth images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from dense_detectors import dense
from export_detectors import photographs
from helpers import build
from mmengine.config import ConfigDict
from torch import nn
from two_stage_detectors import two_stage

FAMILIES = ("retinanet", "paa", "rtmdet", "faster")


def put_batch_norm(config: Any) -> None:
    """Put batch norm in the place of group norm, at any depth of a config."""
    if isinstance(config, dict):
        if config.get("type") == "GN":
            config.pop("num_groups")
            config.type = "BN"
        config = list(config.values())
    for value in config if isinstance(config, (list, tuple)) else ():
        put_batch_norm(value)


def config_of(family: str) -> ConfigDict:
    """The config of a small detector of three classes; RTMDet and YOLOX have batch norm as MMDetection's."""
    if family == "faster":
        return two_stage()
    config = dense(family)
    if family in ("rtmdet", "yolox"):
        put_batch_norm(config)
    return config


def detector(family: str) -> nn.Module:
    """A detector with random weights that has seen 8 images."""
    model = build(config_of(family))
    if family == "rtmdet":
        # In its thin and deep layers, weights of one size would leave variances of nearly 0.
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for layer in model.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight)
        for conv in model.bbox_head.rtm_reg:
            nn.init.normal_(conv.weight, std=0.01)  # distances are exponentials of its outputs
    norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    momenta = [one.momentum for one in norms]
    images = torch.from_numpy(np.stack(photographs(8, (64, 96)))).permute(0, 3, 1, 2)
    inputs = model.data_preprocessor(dict(inputs=list(images)))["inputs"]
    for one in norms:
        one.momentum = None  # the mean over the calls
        one.train()
    with torch.no_grad():
        features = model.extract_feat(inputs)
        for name in ("bbox_head", "rpn_head"):
            if hasattr(model, name):
                getattr(model, name)(features)
    for one, momentum in zip(norms, momenta, strict=True):
        one.momentum = momentum
    return model
