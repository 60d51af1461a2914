"""Small detectors with random weights whose detections differ from each other, and images for them."""

from __future__ import annotations

from lad.export import InputRule

import cv2
import numpy as np
import torch
from dense_detectors import dense
from detr_detectors import small_detr
from helpers import build
from mmdet.structures import DetDataSample
from two_stage_detectors import two_stage

SHAPE = (96, 128)
RULE = InputRule(shape=SHAPE, limit=SHAPE, keep_ratio=True, pad_value=(103.53, 116.28, 123.675))
FAMILIES = ("retinanet", "paa", "tood", "rtmdet", "yolox", "gfl", "faster", "atss", "fcos", "ddod")


def photographs(num: int, size: tuple[int, int] = SHAPE, seed: int = 0) -> list[np.ndarray]:
    """Smooth random images, (height, width, 3) uint8."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (num, 12, 16, 3)).astype(np.uint8)
    return [cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_CUBIC) for image in coarse]


def samples(num: int, shape: tuple[int, int] = SHAPE) -> list[DetDataSample]:
    """Of images that fill their input."""
    meta = dict(img_shape=shape, ori_shape=shape, batch_input_shape=shape, pad_shape=shape)
    return [DetDataSample(metainfo=dict(meta, scale_factor=(1.0, 1.0))) for _ in range(num)]


def trained(family: str, seed: int = 0, **settings) -> torch.nn.Module:
    """A detector in eval mode, each of whose layers has outputs of variance 1 and boxes of moderate size."""
    if family in ("one_stage", "two_stage", "dino"):
        config = small_detr(family)
    else:
        config = two_stage(**settings) if family == "faster" else dense(family, **settings)
    detector = build(config, seed).eval()
    hooks = {}

    def scale(layer: torch.nn.Module, _: tuple, output: torch.Tensor) -> torch.Tensor:
        # Once: a layer of a head sees all levels, the largest first.
        name, hook = hooks.pop(layer)
        hook.remove()
        # Deltas of boxes are exponents.
        wanted = 0.3 if "head" in name and "reg" in name else 1.0
        factor = wanted / (output.std() + 1e-6)
        layer.weight.mul_(factor)
        if layer.bias is not None:
            layer.bias.mul_(factor)
        return output * factor

    for name, layer in detector.named_modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            hooks[layer] = name, layer.register_forward_hook(scale)
    images = torch.from_numpy(np.stack(photographs(4, seed=100))).permute(0, 3, 1, 2)
    data = dict(inputs=list(images), data_samples=samples(4))
    with torch.no_grad():
        detector.test_step(data)
    for _, hook in hooks.values():
        hook.remove()
    return detector
