"""Teachers from which no images can be synthesised, and why."""

import copy

from lad.base.config import detector_config
from lad.errors import UnsupportedError
from lad.synthesis.refusal import check_synthesisable

import pytest
from dense_detectors import dense, differing
from helpers import build, small_detector
from mask_detectors import segmentor
from mmdet.registry import MODELS
from synthesis.detectors import config_of
from two_stage_detectors import two_stage


def many_channels():
    config = copy.deepcopy(dense("retinanet"))
    config.backbone.in_channels = 4
    config.data_preprocessor = dict(type="DetDataPreprocessor")
    return config


def panoptic():
    return detector_config(
        dict(
            config="mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py",
            backbone=dict(init_cfg=None),
        ),
        "teacher",
    )


REFUSED = {
    "group norm": (
        lambda: differing(dense("retinanet")),
        r"RetinaNet: it has no batch norm .*\(GroupNorm instead\)",
    ),
    "mask head": (lambda: two_stage("mask"), "MaskRCNN: its loss needs masks"),
    "masks of one stage": (lambda: segmentor("condinst"), "its loss needs masks"),
    "panoptic": (panoptic, "PanopticFPN: it needs segmentations of whole images"),
    "four channels": (many_channels, "images of 4 channels"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_teacher_is_refused_with_the_reason_in_one_line(kind):
    config, reason = REFUSED[kind]
    with pytest.raises(UnsupportedError, match=reason) as refused:
        check_synthesisable(MODELS.build(config()))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("family", ["retinanet", "paa", "rtmdet", "yolox", "faster", "fcos"])
def test_teacher_with_batch_norm_is_accepted(family):
    check_synthesisable(build(config_of(family)))


def test_teacher_whose_head_alone_has_group_norm_is_accepted():
    config = small_detector("mmdet::atss/atss_r50_fpn_1x_coco.py")  # its towers have group norm
    check_synthesisable(build(config))
