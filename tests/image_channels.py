"""Detectors for images of any number of channels, with backbones of which MMDetection has only those for three."""

from __future__ import annotations

from lad.base.config import detector_config

import torch
from detr_detectors import small_detr
from helpers import small_detector
from mmdet.models import DetDataPreprocessor
from mmdet.models.backbones import SSDVGG, CSPDarknet, CSPNeXt, MobileNetV2
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from seam_detectors import small
from torch import nn
from two_stage_detectors import two_stage

#: Backbones: ResNet (also in two stages and in a DETR), CSPNeXt, CSPDarknet after Focus, MobileNetV2, VGG.
FAMILIES = ("retinanet", "faster", "detr", "rtmdet", "yolox", "ssdlite", "ssd")


class _Stem:
    """A backbone of MMDetection's whose first convolution takes other images."""

    def __init__(self, *args, in_channels: int = 3, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        name, first = next((n, m) for n, m in self.named_modules() if isinstance(m, nn.Conv2d))
        owner, _, own = name.rpartition(".")
        stem = nn.Conv2d(
            first.in_channels // 3 * in_channels,  # Focus folds four pixels into one
            first.out_channels,
            first.kernel_size,
            first.stride,
            first.padding,
            bias=first.bias is not None,
        )
        setattr(self.get_submodule(owner), own, stem)


@MODELS.register_module()
class OtherCSPNeXt(_Stem, CSPNeXt):
    pass


@MODELS.register_module()
class OtherCSPDarknet(_Stem, CSPDarknet):
    pass


@MODELS.register_module()
class OtherMobileNetV2(_Stem, MobileNetV2):
    pass


@MODELS.register_module()
class OtherSSDVGG(_Stem, SSDVGG):
    pass


@MODELS.register_module()
class LongMeanPreprocessor(DetDataPreprocessor):
    """Takes a mean and a standard deviation of any length."""

    def __init__(self, mean=None, std=None, **kwargs) -> None:
        super().__init__(**kwargs)
        if mean is not None:
            self._enable_normalize = True
            self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), False)
            self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), False)


def preprocessing(values: int | None) -> ConfigDict:
    """A data preprocessor whose mean and standard deviation have so many values; None for none."""
    settings: dict = dict(type="LongMeanPreprocessor", pad_size_divisor=32)
    if values is not None:
        settings["mean"] = [100.0 + 10 * channel for channel in range(values)]
        settings["std"] = [50.0 + channel for channel in range(values)]
    return ConfigDict(settings)


def detector(family: str, channels: int, values: int | None = 1) -> ConfigDict:
    """A small detector.

    Args:
        family: One of FAMILIES.
        channels: Of the images that it takes.
        values: Of mean and standard deviation.
    """
    if family == "retinanet":
        config = small_detector("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")
        config.backbone.norm_cfg.requires_grad = True
    elif family == "faster":
        config = two_stage()
    elif family == "detr":
        config = small_detr("one_stage")
    elif family in ("rtmdet", "yolox"):
        config = small(family)
    elif family == "ssdlite":
        config = detector_config(
            dict(
                config="mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py",
                bbox_head=dict(num_classes=3),
            ),
            "student",
        )
    else:
        config = detector_config(
            dict(config="mmdet::ssd/ssd300_coco.py", bbox_head=dict(num_classes=3)), "student"
        )
    if family in ("rtmdet", "yolox", "ssdlite", "ssd"):
        config.backbone.type = f"Other{config.backbone.type}"
    config.backbone.init_cfg = None
    config.backbone.in_channels = channels
    config.data_preprocessor = preprocessing(values)
    return config
