"""Batches of random images and boxes, in the format of the training pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lad.datasets.configured import datasets_of

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData

#: Where a config does not say: COCO's.
DEFAULT_SHAPE = (800, 1333)


def input_shape(cfg: dict) -> tuple[int, int]:
    """Height and width that the training pipeline of a config resizes to, taken as landscape; else 800 x 1333."""
    for dataset in datasets_of((cfg.get("train_dataloader") or {}).get("dataset")):
        for transform in dataset.get("pipeline") or ():
            scale = transform.get("scale") if isinstance(transform, dict) else None
            if transform.get("type") == "Resize" and isinstance(scale, (tuple, list)):
                return min(scale), max(scale)
    return DEFAULT_SHAPE


def random_batch(
    images: int,
    shape: tuple[int, int],
    objects: int,
    num_classes: int,
    seed: int = 0,
    with_masks: bool = False,
    channels: int = 3,
) -> dict[str, list]:
    """Images of noise with random boxes, as ``PackDetInputs`` and the collate function leave them.

    Args:
        images: N.
        shape: Height and width in pixels.
        objects: Boxes of each image, of 16 pixels to half of the image.
        num_classes: Labels are below.
        seed: Of the random numbers.
        with_masks: Add masks, the boxes themselves.
        channels: C of the images.

    Returns:
        ``inputs``, N images (C, H, W) uint8, and ``data_samples``.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = shape
    size = torch.tensor([width, height], dtype=torch.float32)
    samples = []
    for number in range(images):
        # Evenly spread logarithms: as many small objects as large ones.
        smallest = size.clamp(max=16)
        extent = smallest * (size / 2 / smallest).clamp(min=1) ** torch.rand(objects, 2, generator=generator)
        corner = torch.rand(objects, 2, generator=generator) * (size - extent)
        boxes = torch.cat([corner, corner + extent], dim=1)
        sample = DetDataSample(
            metainfo=dict(
                img_id=number,
                img_path=f"{number}.jpg",
                img_shape=shape,
                ori_shape=shape,
                scale_factor=(1.0, 1.0),
                flip=False,
                flip_direction=None,
            )
        )
        labels = torch.randint(0, num_classes, (objects,), generator=generator)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        if with_masks:
            sample.gt_instances.masks = _box_masks(boxes, shape)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
        samples.append(sample)
    noise = [
        torch.randint(0, 256, (channels, *shape), generator=generator, dtype=torch.uint8)
        for _ in range(images)
    ]
    return dict(inputs=noise, data_samples=samples)


def _box_masks(boxes: torch.Tensor, shape: tuple[int, int]) -> BitmapMasks:
    masks = np.zeros((len(boxes), *shape), dtype=np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1 : y2 + 1, x1 : x2 + 1] = 1
    return BitmapMasks(masks, *shape)


def batches(seed: int = 0, **settings: Any) -> Iterator[dict[str, list]]:
    """Generate an endless sequence of :func:`random_batch` with increasing seeds."""
    while True:
        yield random_batch(seed=seed, **settings)
        seed += 1
