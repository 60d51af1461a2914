"""Which heads predict masks, and pipelines that do not load what they learn from."""

from lad.detectors.masks import (
    check_loads_masks,
    learns_from_masks,
    mask_heads,
    num_mask_classes,
    predicts_masks,
)
from lad.errors import ConfigError

import pytest
from helpers import build, small_detector
from mask_detectors import segmentor
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.models.data_preprocessors import BoxInstDataPreprocessor
from mmdet.registry import MODELS, TRANSFORMS
from two_stage_detectors import distil, two_stage

BOXES = dict(type="LoadAnnotations", with_bbox=True)
MASKS = dict(BOXES, with_mask=True)
FIRST, LAST = dict(type="LoadImageFromFile"), dict(type="PackDetInputs")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mask", {"roi_head.mask_head": 5}),
        ("cascade_mask", {f"roi_head.mask_head.{stage}": 5 for stage in range(3)}),
        ("yolact", {"mask_head": 5}),
        ("solo", {"mask_head": 5}),
        # Their masks do not depend on the class.
        ("condinst", {"mask_head": None}),
        ("rtmdet_ins", {"bbox_head.mask_head": None}),
    ],
)
def test_mask_heads_and_their_classes_are_found(kind, expected):
    model = build(segmentor(kind, num_classes=5))
    assert {name: num_mask_classes(head) for name, head in mask_heads(model).items()} == expected
    assert predicts_masks(model)
    assert learns_from_masks(model)


def test_class_agnostic_masks_have_no_number_of_classes():
    config = segmentor("mask")
    config.roi_head.mask_head.class_agnostic = True
    [head] = mask_heads(build(config)).values()
    assert head.num_classes == 3
    assert num_mask_classes(head) is None


@pytest.mark.parametrize(
    "config",
    [two_stage(), two_stage("cascade"), small_detector("mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py")],
)
def test_detectors_of_boxes_have_none(config):
    model = build(config)
    assert mask_heads(model) == {}
    assert not predicts_masks(model)
    check_loads_masks(model, [FIRST, BOXES, LAST])


def test_masks_that_the_data_preprocessor_makes_need_no_annotations():
    model = build(segmentor("condinst"))
    model.data_preprocessor.__class__ = BoxInstDataPreprocessor
    assert predicts_masks(model)
    assert not learns_from_masks(model)
    check_loads_masks(model, [FIRST, BOXES, LAST])


@pytest.mark.parametrize("deploy", ["boxes", "masks"])
def test_masks_that_any_trained_network_learns_count(deploy):
    networks = dict(boxes=two_stage(), masks=two_stage("mask"))
    model = MODELS.build(dict(type="DistillationDetector", networks=networks, deploy=deploy, methods=[]))
    [name] = mask_heads(model)
    assert name.endswith("roi_head.mask_head")
    with pytest.raises(ConfigError, match=r"roi_head.mask_head \(FCNMaskHead\) learns masks"):
        check_loads_masks(model, [FIRST, BOXES, LAST])


def test_masks_that_a_frozen_teacher_predicts_do_not_count(tmp_path):
    model = distil(tmp_path, [], teacher=two_stage("mask"))
    assert mask_heads(model) == {}
    assert predicts_masks(model.teacher.model)
    check_loads_masks(model, [FIRST, BOXES, LAST])


@TRANSFORMS.register_module()
class LoadEverything(LoadAnnotations):
    def __init__(self, with_mask=True, **kwargs):
        super().__init__(with_mask=with_mask, **kwargs)


@TRANSFORMS.register_module()
class LoadBoxes(LoadAnnotations):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)


@pytest.mark.parametrize(
    "pipeline",
    [
        [FIRST, MASKS, LAST],
        [FIRST, dict(MASKS, type="mmdet.LoadAnnotations"), LAST],
        [FIRST, dict(MASKS, type=LoadAnnotations), LAST],
        [FIRST, dict(type="LoadEverything"), LAST],
        [FIRST, dict(type="LoadPanopticAnnotations", with_bbox=True), LAST],
        [FIRST, dict(type="RandomApply", transforms=[MASKS]), LAST],
        # What nothing is known about is passed over.
        [FIRST, dict(type="Resize", scale=(64, 64)), LAST],
        [lambda results: results],
        [],
    ],
)
def test_pipelines_that_load_masks_pass(pipeline):
    check_loads_masks(build(segmentor("mask")), pipeline)


@pytest.mark.parametrize("kind", ["mask", "cascade_mask", "solo", "rtmdet_ins"])
@pytest.mark.parametrize(
    "loader",
    [
        BOXES,
        dict(MASKS, with_mask=False),
        dict(BOXES, type=LoadAnnotations),
        dict(type="LoadBoxes", with_bbox=True),
        dict(type="RandomApply", transforms=[BOXES]),
    ],
)
def test_pipelines_without_masks_are_refused_in_one_line(kind, loader):
    with pytest.raises(
        ConfigError, match=r"mask_head.* learns masks, .* of val loads none: set with_mask=True"
    ) as error:
        check_loads_masks(build(segmentor(kind)), [FIRST, loader, LAST], "val")
    assert "\n" not in str(error.value)
