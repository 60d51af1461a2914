"""Small dense detectors of every family whose class scores or boxes a teacher can teach, and pairs of them."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from pathlib import Path

from lad.base.replace import replaced

import torch
from helpers import build, save_checkpoint, small_detector, small_paa
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from seam_detectors import FAMILIES, set_epoch, small

CONFIGS = dict(
    retinanet="mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
    fcos="mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    atss="mmdet::atss/atss_r50_fpn_1x_coco.py",
    gfl="mmdet::gfl/gfl_r50_fpn_1x_coco.py",
    vfnet="mmdet::vfnet/vfnet_r50_fpn_1x_coco.py",
)


def dense(family: str, **bbox_head) -> ConfigDict:
    """A detector of three classes, all of whose parameters are trained."""
    if family == "paa":
        config = small_paa()
    elif family in FAMILIES:
        config = small(family)
    else:
        config = small_detector(CONFIGS[family])
        config.backbone.norm_cfg = dict(type="BN", requires_grad=True)
    config.bbox_head.update(bbox_head)
    return config


def differing(config: ConfigDict) -> ConfigDict:
    """The detector with a wider backbone, group norm, and images in RGB from 0 to 1."""
    config = copy.deepcopy(config)
    config.backbone.update(base_channels=16, norm_cfg=dict(type="GN", num_groups=4))
    config.neck.in_channels = [16, 32, 64, 128]
    config.data_preprocessor.update(mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=False)
    return config


def distil(
    folder: Path,
    methods: list[dict],
    student: ConfigDict,
    teacher: ConfigDict | None = None,
    seed: int = 1,
    classes: tuple[str, ...] | None = None,
    **settings,
) -> torch.nn.Module:
    """A student (weights of seed 0) and a teacher in training; batch norm as at test time, so that equals are equal."""
    set_epoch(100)  # TOOD's own assigner
    teacher = student if teacher is None else teacher
    meta = dict(dataset_meta=dict(classes=classes)) if classes else {}
    path = save_checkpoint(build(teacher, seed), folder / "teacher.pth", **meta)
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=copy.deepcopy(student),
            teacher=dict(copy.deepcopy(teacher), checkpoint=path),
            methods=copy.deepcopy(methods),
            **settings,
        )
    )
    model.student.load_state_dict(build(student).state_dict())
    model.eval()
    model.student.training = model.student.bbox_head.training = True
    return model


def outputs_of(model: torch.nn.Module, inputs: torch.Tensor) -> tuple:
    """What a detector's dense head says of images."""
    return model.bbox_head(model.extract_feat(inputs))


def flat(levels: list[torch.Tensor], channels: int) -> torch.Tensor:
    """(N, P, channels), image by image and level by level."""
    return torch.stack(
        [
            torch.cat([level[image].permute(1, 2, 0).reshape(-1, channels) for level in levels])
            for image in range(len(levels[0]))
        ]
    )


def class_loss_divisor(detector: torch.nn.Module, inputs: torch.Tensor, samples: list) -> float:
    """What a head divides its own class loss by: the loss's sum over priors, over what the head returns.

    YOLOX has no class loss without objects; its loss of objectness is divided by the same.
    """
    head, sums = detector.bbox_head, []
    name = "loss_obj" if type(detector).__name__ == "YOLOX" else "loss_cls"
    loss = getattr(head, name)

    def add(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        if kwargs.get("reduction_override") is None:  # PAA scores its candidates with it too
            rest = {key: value for key, value in kwargs.items() if key != "avg_factor"}
            sums.append(module.forward(*args, **rest, reduction_override="sum"))

    with ExitStack() as stack:
        if hasattr(head, "calc_reweight_factor"):  # DDOD weighs its levels
            stack.enter_context(
                replaced(head, "calc_reweight_factor", lambda levels: torch.ones(len(levels)))
            )
        stack.callback(loss.register_forward_pre_hook(add, with_kwargs=True).remove)
        returned = detector.loss(inputs, copy.deepcopy(samples))[name]
    returned = sum(returned) if isinstance(returned, list) else returned
    return (sum(sums) / returned).item()
