"""Detectors that are not exported, and why."""

from lad.errors import UnsupportedError
from lad.export import check_exportable

import pytest
from dense_detectors import dense
from detr_detectors import small_detr
from export_detectors import FAMILIES
from helpers import build, small_paa
from mask_detectors import segmentor
from two_stage_detectors import two_stage

REFUSED = {
    "mask": (lambda: two_stage("mask"), "predicts masks"),
    "cascade": (lambda: two_stage("cascade"), "CascadeRoIHead"),
    "double": (lambda: two_stage("double"), "DoubleHeadRoIHead"),
    "rtmdet_ins": (lambda: segmentor("rtmdet_ins"), "RTMDetInsSepBNHead|masks"),
    "condinst": (lambda: segmentor("condinst"), "masks"),
    "vfnet": (lambda: dense("vfnet"), "VFNetHead"),
    "detr": (lambda: small_detr("one_stage"), "neither"),
    "soft_nms": (lambda: soft(dense("retinanet")), "soft_nms"),
}


def soft(config):
    config.test_cfg.nms.type = "soft_nms"
    return config


@pytest.mark.parametrize("kind", REFUSED)
def test_other_detectors_are_refused_with_the_reason(kind):
    config, reason = REFUSED[kind]
    with pytest.raises(UnsupportedError, match=reason) as refused:
        check_exportable(build(config()))
    assert "onedl-mmdeploy" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_covered_detectors_are_accepted(family):
    check_exportable(build(two_stage() if family == "faster" else dense(family)))


def test_batched_paa_head_is_paas():
    check_exportable(build(small_paa("BatchedPAAHead")))
