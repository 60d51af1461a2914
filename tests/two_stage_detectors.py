"""Two-stage detectors of a few thousand weights on MMDetection's own configs."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

from lad.base.config import detector_config

import numpy as np
import torch
from helpers import build, save_checkpoint
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict

CONFIGS = dict(
    faster="mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    giou="mmdet::faster_rcnn/faster-rcnn_r50_fpn_giou_1x_coco.py",
    mask="mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    cascade="mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py",
    cascade_mask="mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py",
    double="mmdet::double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py",
)
HINT, RPN, RCNN = (dict(type=f"{name}Distillation") for name in ("Hint", "RPN", "RCNN"))


@cache
def _mmdetections(kind: str) -> ConfigDict:
    return detector_config(CONFIGS[kind], "student")


def two_stage(
    kind: str = "faster",
    base: int = 8,
    channels: int = 16,
    num_classes: int = 3,
    head: dict | None = None,
    rpn_head: dict | None = None,
    **overrides,
) -> ConfigDict:
    """A small detector.

    Args:
        kind: A key of CONFIGS.
        base: Base channels of its ResNet-18.
        channels: Of its neck and heads.
        num_classes: Number of classes.
        head: Settings of every box head.
        rpn_head: Settings of the RPN.
        overrides: Of the model.
    """
    rpn_head = dict(rpn_head or {}, in_channels=channels, feat_channels=channels)
    backbone = dict(
        depth=18, base_channels=base, init_cfg=None, frozen_stages=-1, norm_eval=False, style="pytorch"
    )
    neck = dict(in_channels=[base, base * 2, base * 4, base * 8], out_channels=channels)
    config = copy.deepcopy(_mmdetections(kind))
    overrides.update(backbone=backbone, neck=neck, rpn_head=rpn_head)
    config = ConfigDict(Config._merge_a_into_b(copy.deepcopy(overrides), config))
    roi_head, train_cfg = config.roi_head, config.train_cfg
    for part in ("bbox_roi_extractor", "mask_roi_extractor"):
        if part in roi_head:
            roi_head[part].out_channels = channels
    if "mask_head" in roi_head:
        roi_head.mask_head.update(
            in_channels=channels, conv_out_channels=channels, num_convs=1, num_classes=num_classes
        )
    heads = roi_head.bbox_head if isinstance(roi_head.bbox_head, list) else [roi_head.bbox_head]
    for bbox_head in heads:
        bbox_head.update(in_channels=channels, fc_out_channels=32, num_classes=num_classes, **(head or {}))
        if kind == "double":
            bbox_head.update(conv_out_channels=16, num_convs=1)
    train_cfg.rpn_proposal.update(nms_pre=200, max_per_img=60)
    for stage in train_cfg.rcnn if isinstance(train_cfg.rcnn, list) else [train_cfg.rcnn]:
        stage.sampler.num = 32
    return config


def random_teacher(config: ConfigDict | None = None, box_scale: float = 1.0) -> torch.nn.Module:
    """A detector with random weights whose logits and deltas are of the order of 1.

    Args:
        config: Its config, kept as ``own_config``.
        box_scale: Factor of its deltas; small: its boxes are close to anchors and proposals, and so at times better
            than a random student's.
    """
    config = config if config is not None else two_stage(base=16)
    network = build(config, seed=1)
    network.own_config = config
    heads = network.roi_head.bbox_head
    boxes = [network.rpn_head.rpn_reg]
    boxes += [head.fc_reg for head in (heads if isinstance(heads, torch.nn.ModuleList) else [heads])]
    with torch.no_grad():
        for level in network.neck.fpn_convs:
            level.conv.weight *= 0.01
        for layer in boxes:
            layer.weight *= box_scale
            layer.bias *= box_scale
    return network


def distil(
    folder: Path,
    methods: list[dict],
    student: ConfigDict | None = None,
    teacher: ConfigDict | torch.nn.Module | None = None,
    classes: tuple[str, ...] | None = None,
    speed: dict | None = None,
    **settings,
) -> torch.nn.Module:
    """A distillation detector in training, with a student and a teacher of random weights that never change."""
    student = student if student is not None else two_stage()
    network = teacher if isinstance(teacher, torch.nn.Module) else random_teacher(teacher)
    meta = dict(dataset_meta=dict(classes=classes)) if classes else {}
    path = save_checkpoint(network, folder / "teacher.pth", **meta)
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=copy.deepcopy(student),
            teacher=dict(copy.deepcopy(network.own_config), checkpoint=path, speed=speed),
            methods=copy.deepcopy(methods),
            **settings,
        )
    )
    model.student.load_state_dict(build(student).state_dict())
    return model.train()


def with_masks(samples: list) -> list:
    """The samples with a full mask for each box."""
    for sample in samples:
        height, width = sample.img_shape
        count = len(sample.gt_instances)
        sample.gt_instances.masks = BitmapMasks(np.ones((count, height, width), np.uint8), height, width)
    return samples


def seeded_loss(model: torch.nn.Module, inputs: torch.Tensor, samples: list) -> dict:
    """The losses, with the proposals that a seed samples; lists of levels are summed."""
    torch.manual_seed(0)
    losses = model.loss(inputs, copy.deepcopy(samples))
    return {name: sum(value) if isinstance(value, list) else value for name, value in losses.items()}


def total(losses: dict) -> torch.Tensor:
    return sum(value for name, value in losses.items() if "loss" in name)
