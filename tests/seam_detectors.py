"""Small detectors of every family whose labels a teacher can assign, and what their heads decide."""

from __future__ import annotations

import copy
from types import SimpleNamespace

from lad.base.config import detector_config
from lad.base.replace import replaced

import torch
from helpers import build, save_checkpoint
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub

#: The attributes that decide, and those of an answer that enter the losses.
SITES = {
    "tood": ("alignment_assigner",),
    "rtmdet": ("assigner",),
    "yolox": ("assigner",),
    "ddod": ("cls_assigner", "reg_assigner"),
}
FAMILIES = list(SITES)


def small(family: str, base: int = 8, **bbox_head) -> ConfigDict:
    """A detector of three classes with a backbone of ``base`` channels and 32 in neck and head."""
    thin = dict(in_channels=32, feat_channels=32, num_classes=3, stacked_convs=1, **bbox_head)
    if family in ("tood", "ddod"):
        overrides = dict(
            config=f"mmdet::{family}/{family}_r50_fpn_1x_coco.py",
            backbone=dict(depth=18, base_channels=base, init_cfg=None, frozen_stages=-1, norm_eval=False),
            neck=dict(in_channels=[base, base * 2, base * 4, base * 8], out_channels=32),
            bbox_head=thin,
        )
        if family == "tood":
            overrides["train_cfg"] = dict(initial_epoch=1)
        else:
            overrides["bbox_head"] = dict(thin, use_dcn=False)
        return detector_config(overrides, "student")

    # CSPNeXt and CSPDarknet: 64 channels at the stem for widen_factor 1. Groups are normalised so that random weights
    # give predictions that differ from place to place.
    def norm() -> dict:  # merging takes the `_delete_` out
        return dict(_delete_=True, type="GN", num_groups=2)

    widen = base / 64
    channels = [int(c * widen) for c in (256, 512, 1024)]
    neck = dict(in_channels=channels, out_channels=32, num_csp_blocks=1, norm_cfg=norm())
    if family == "rtmdet":
        config, thin = "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py", dict(thin, exp_on_reg=True)
    else:
        config = "mmdet::yolox/yolox_s_8xb8-300e_coco.py"
    return detector_config(
        dict(
            config=config,
            backbone=dict(deepen_factor=0.167, widen_factor=widen, norm_cfg=norm(), init_cfg=None),
            neck=neck,
            bbox_head=dict(thin, norm_cfg=norm()),
            data_preprocessor=dict(batch_augments=None),
        ),
        "student",
    )


def distil(student: dict, teacher: dict, tmp_path, weights=(0, 10), mode="hard", **method) -> torch.nn.Module:
    """A student and a teacher with weights of the given seeds, batch norm as at test time."""
    path = save_checkpoint(build(teacher, weights[1]), tmp_path / "teacher.pth")
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=copy.deepcopy(student),
            teacher=dict(copy.deepcopy(teacher), checkpoint=path),
            methods=[dict(type="LabelAssignmentDistillation", mode=mode, **method)],
        )
    )
    model.student.load_state_dict(build(student, weights[0]).state_dict())
    model.eval()
    model.student.training = model.student.bbox_head.training = True
    return model


def set_epoch(epoch: int) -> None:
    """What MMEngine's runner tells TOOD."""
    MessageHub.get_current_instance().update_info("epoch", epoch)


def loss_of(model: torch.nn.Module, batch) -> dict[str, torch.Tensor]:
    """The losses of a batch, lists summed; counters that DDOD keeps are set back."""
    head = model.bbox_head
    counters = {
        name: list(value) for name, value in vars(head).items() if name.endswith("_samples_per_level")
    }
    inputs, samples = batch
    losses = model.loss(inputs, copy.deepcopy(samples))
    vars(head).update(counters)
    return {name: sum(value) if isinstance(value, list | tuple) else value for name, value in losses.items()}


def decisions(model: torch.nn.Module, batch) -> list:
    """What a head's losses were made from, call by call: every head hands its assigner's answer to its sampler.

    Each answer is a copy, with what the head asked with under ``asked``.
    """
    found: list = []
    sampler = model.bbox_head.sampler
    sample = sampler.sample

    def recorded(assign_result, pred_instances, gt_instances, **kwargs):
        names = ("gt_inds", "labels", "max_overlaps", "assign_metrics")
        kept = {
            name: getattr(assign_result, name).detach().clone()
            for name in names
            if hasattr(assign_result, name)
        }
        asked = SimpleNamespace(pred_instances=pred_instances.detach(), gt_instances=gt_instances)
        found.append(SimpleNamespace(**kept, asked=asked))
        return sample(assign_result, pred_instances, gt_instances, **kwargs)

    with replaced(sampler, "sample", recorded):
        loss_of(model, batch)
    return found
