"""DETRs of a few thousand weights on MMDetection's own configs."""

from __future__ import annotations

import copy

from lad.base.capture import Outputs
from lad.base.config import detector_config

import torch
from helpers import save_checkpoint
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

DETRS = ["one_stage", "two_stage", "dino"]


def small_detr(
    family: str,
    base: int = 8,
    queries: int = 20,
    layers: int = 2,
    num_classes: int = 3,
    dims: int | None = None,
    **model,
) -> ConfigDict:
    """A Deformable-DETR or DINO with one encoder layer and two decoder layers.

    MMDetection's two-stage Deformable-DETR and DINO embed boxes in 4 x 128 numbers, so they cannot be thinner.
    """
    dims = dims or (32 if family == "one_stage" else 256)
    attention, ffn = dict(embed_dims=dims), dict(embed_dims=dims, feedforward_channels=32)
    name = (
        "dino/dino-4scale_r50_8xb2-12e"
        if family == "dino"
        else "deformable_detr/deformable-detr_r50_16xb2-50e"
    )
    overrides = dict(
        config=f"mmdet::{name}_coco.py",
        num_queries=queries,
        backbone=dict(depth=18, base_channels=base, init_cfg=None, frozen_stages=-1),
        neck=dict(in_channels=[base * 2, base * 4, base * 8], out_channels=dims, norm_cfg=dict(num_groups=4)),
        encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)),
        decoder=dict(
            num_layers=layers,
            layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn),
        ),
        positional_encoding=dict(num_feats=dims // 2),
        bbox_head=dict(num_classes=num_classes, embed_dims=dims),
        test_cfg=dict(max_per_img=queries),
        **model,
    )
    if family == "dino":
        overrides.setdefault("dn_cfg", dict(group_cfg=dict(num_dn_queries=20)))
    else:
        overrides["as_two_stage"] = overrides["with_box_refine"] = family == "two_stage"
    return detector_config(overrides, "student")


def small_dab(base: int = 8, queries: int = 20, layers: int = 2, num_classes: int = 3, **model) -> ConfigDict:
    """A DAB-DETR with one encoder layer; MMDetection embeds its boxes in 4 x 128 numbers."""
    return _single_level("dab_detr/dab-detr", base, queries, layers, num_classes, **model)


def small_conditional(
    base: int = 8, queries: int = 20, layers: int = 2, num_classes: int = 3, **model
) -> ConfigDict:
    """A Conditional DETR with one encoder layer."""
    return _single_level("conditional_detr/conditional-detr", base, queries, layers, num_classes, **model)


def _single_level(name: str, base: int, queries: int, layers: int, num_classes: int, **model) -> ConfigDict:
    thin = dict(layer_cfg=dict(ffn_cfg=dict(feedforward_channels=32)))
    return detector_config(
        dict(
            config=f"mmdet::{name}_r50_8xb2-50e_coco.py",
            num_queries=queries,
            backbone=dict(depth=18, base_channels=base, init_cfg=None, frozen_stages=-1),
            neck=dict(in_channels=[base * 8]),
            encoder=dict(thin, num_layers=1),
            decoder=dict(thin, num_layers=layers),
            bbox_head=dict(num_classes=num_classes),
            test_cfg=dict(max_per_img=queries),
            **model,
        ),
        "student",
    )


def trained_like(config, seed):
    """Weights as a training begins with: those of ``build`` saturate boxes to points."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS.build(copy.deepcopy(config))
        model.init_weights()
        for name, value in model.named_parameters():
            if "bbox_head" in name or "sampling_offsets" in name:
                value.data += 0.05 * torch.randn_like(value)  # otherwise 0: all boxes alike
    return model


def distil_detr(student, teacher, folder, *methods, seeds=(0, 10), meta=None, speed=None, **settings):
    """A student and a teacher in eval mode, whose losses are those of training."""
    path = save_checkpoint(trained_like(teacher, seeds[1]), folder / "teacher.pth", **(meta or {}))
    config = dict(
        type="DistillationDetector",
        student=copy.deepcopy(student),
        teacher=dict(copy.deepcopy(teacher), checkpoint=path, speed=speed or {}),
        methods=list(copy.deepcopy(methods)),
        **settings,
    )
    model = MODELS.build(config)
    model.student.load_state_dict(trained_like(student, seeds[0]).state_dict())
    model.eval()
    model.student.training = model.student.bbox_head.training = True
    return model


def seeded_loss(model, batch, seed=3):
    inputs, samples = batch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.loss(inputs, copy.deepcopy(samples))


def features_of(network, inputs):
    """The maps of a network's neck, as methods find them."""
    outputs = Outputs()
    outputs.add("neck", network.extract_feat(inputs))
    return outputs


def sample_of(shape):
    return DetDataSample(metainfo=dict(img_shape=shape), gt_instances=InstanceData())
