"""Instance segmentors of a few thousand weights on MMDetection's own configs: dense ones and two-stage ones."""

from __future__ import annotations

import copy
from functools import cache

from lad.base.config import detector_config

from mmengine.config import Config, ConfigDict
from two_stage_detectors import two_stage

#: Detectors of boxes and masks: boxes and masks by RoI heads, by dense heads, and masks alone (SOLO).
SEGMENTORS = ("mask", "cascade_mask", "condinst", "yolact", "solo", "rtmdet_ins")

_CONFIGS = dict(
    condinst="mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py",
    yolact="mmdet::yolact/yolact_r50_1xb8-55e_coco.py",
    solo="mmdet::solo/solo_r50_fpn_1x_coco.py",
    rtmdet_ins="mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py",
)


@cache
def _mmdetections(kind: str) -> ConfigDict:
    return detector_config(_CONFIGS[kind], "student")


def segmentor(kind: str, num_classes: int = 3, base: int = 8, **overrides) -> ConfigDict:
    """A small instance segmentor.

    Args:
        kind: One of SEGMENTORS.
        num_classes: Number of classes.
        base: Base channels of its backbone.
        overrides: Of the model.
    """
    if kind not in _CONFIGS:
        return two_stage(kind, base=base, num_classes=num_classes, **overrides)
    config = copy.deepcopy(_mmdetections(kind))
    resnet = dict(
        depth=18, base_channels=base, init_cfg=None, frozen_stages=-1, norm_eval=False, style="pytorch"
    )
    fpn = dict(in_channels=[base, base * 2, base * 4, base * 8], out_channels=16)
    head = dict(in_channels=16, feat_channels=16, num_classes=num_classes, stacked_convs=1)
    small: dict = dict(backbone=resnet, neck=fpn)
    if kind == "condinst":
        group_norm = dict(type="GN", num_groups=4, requires_grad=True)
        small["bbox_head"] = dict(head, norm_cfg=group_norm)
        features = dict(in_channels=16, feat_channels=16, out_channels=8, num_stacked_convs=1)
        small["mask_head"] = dict(mask_feature_head=features)
    elif kind == "yolact":
        small["bbox_head"] = dict(in_channels=16, feat_channels=16, num_classes=num_classes)
        small["mask_head"] = dict(in_channels=16, num_classes=num_classes)
    elif kind == "solo":
        small["mask_head"] = dict(head, stacked_convs=1, cls_down_index=0)
        small["mask_head"]["norm_cfg"] = dict(type="GN", num_groups=4, requires_grad=True)
    else:
        widen = base / 64
        norm = dict(_delete_=True, type="GN", num_groups=2)
        small = dict(
            backbone=dict(
                deepen_factor=0.167, widen_factor=widen, norm_cfg=copy.deepcopy(norm), init_cfg=None
            ),
            neck=dict(
                in_channels=[int(c * widen) for c in (256, 512, 1024)],
                out_channels=16,
                num_csp_blocks=1,
                norm_cfg=copy.deepcopy(norm),
            ),
            bbox_head=dict(head, norm_cfg=copy.deepcopy(norm)),
            data_preprocessor=dict(batch_augments=None),
        )
    small.update(overrides)
    return ConfigDict(Config._merge_a_into_b(small, config))
