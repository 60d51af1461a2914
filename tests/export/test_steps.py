"""Test pipelines that an exported file can follow, and those that it cannot."""

from lad.errors import ConfigError, UnsupportedError
from lad.export.rule import input_rule
from lad.export.steps import PixelSteps, pixel_steps

import pytest
from helpers import ROOT
from mmdet.datasets import transforms
from mmdet.registry import TRANSFORMS
from mmengine.config import Config

LOAD, PACK = (
    dict(type="LoadImageFromFile", backend_args=None),
    dict(type="PackDetInputs", meta_keys=("img_id",)),
)
ANNOTATIONS = dict(type="LoadAnnotations", with_bbox=True)
RESIZE = dict(type="Resize", scale=(64, 48), keep_ratio=True)
PAD = dict(type="Pad", size=(64, 64), pad_val=dict(img=(114, 114, 114)))


def config(*steps):
    return Config(dict(model=dict(), test_dataloader=dict(dataset=dict(pipeline=list(steps)))))


class Brighter(transforms.Resize):
    """What a subclass does is not known."""


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([LOAD, dict(type="CenterCrop", crop_size=(64, 64)), RESIZE], "CenterCrop"),
        ([LOAD, dict(type="RandomFlip", prob=0.5), RESIZE], "RandomFlip"),
        ([LOAD, dict(type="TestTimeAug", transforms=[[RESIZE]])], "TestTimeAug"),
        ([LOAD, dict(type="NoSuchStep"), RESIZE], "NoSuchStep"),
        ([LOAD, dict(type=Brighter, scale=(64, 48))], "Brighter"),
        (
            [LOAD, dict(RESIZE, interpolation="nearest")],
            r"Resize\(interpolation='nearest'\).* must be 'bilinear'",
        ),
        ([LOAD, dict(RESIZE, backend="pillow")], r"Resize\(backend='pillow'\).* must be 'cv2'"),
        ([LOAD, RESIZE, dict(RESIZE, scale=(32, 32))], "second Resize"),
        ([LOAD, PAD, RESIZE], "Resize after a Pad"),
        ([LOAD, RESIZE, PAD, PAD], "second Pad"),
        ([LOAD, RESIZE, dict(PAD, padding_mode="reflect")], r"Pad\(padding_mode='reflect'\)"),
        ([dict(LOAD, to_float32=True), RESIZE], r"LoadImageFromFile\(to_float32=True\)"),
        ([dict(LOAD, color_type="grayscale"), RESIZE], "color_type='grayscale'"),
        ([LOAD, dict(type="FixScaleResize", scale=(64, 48), keep_ratio=True)], "FixScaleResize.*use Resize"),
    ],
)
def test_step_that_changes_pixels_otherwise_is_refused_by_its_name(steps, message):
    cfg = config(*steps, ANNOTATIONS, PACK)
    for shape in (None, (64, 64)):
        with pytest.raises(UnsupportedError, match=message) as refused:
            input_rule(cfg, shape)
        assert "\n" not in str(refused.value)


def test_option_that_a_step_has_not_is_named_with_those_that_it_has():
    with pytest.raises(ConfigError, match=r"Resize has no option 'interpolatoin': .*interpolation"):
        pixel_steps(config(LOAD, dict(RESIZE, interpolatoin="nearest")))


def test_steps_that_leave_pixels_alone_may_stand_anywhere():
    assert pixel_steps(config(ANNOTATIONS, LOAD, RESIZE, ANNOTATIONS, PAD, PACK)) == PixelSteps(RESIZE, PAD)
    assert pixel_steps(config(LOAD, PACK)) == PixelSteps(None, None)
    checked = dict(type="LoadCheckedImageFromFile", on_error="skip", max_skips=3)
    assert pixel_steps(config(checked, RESIZE)) == PixelSteps(RESIZE, None)


@pytest.mark.parametrize("kind", ["Resize", "mmdet.Resize", "mmcv.Resize", transforms.Resize])
def test_steps_are_known_by_name_scope_and_class(kind):
    own = dict(type=kind, scale=(64, 48), keep_ratio=True)
    assert isinstance(TRANSFORMS.build(dict(own)), TRANSFORMS.get("mmcv.Resize"))
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=[LOAD, PACK]))))
    cfg.test_dataloader.dataset.pipeline.insert(1, own)
    assert pixel_steps(cfg).resize == own


def test_steps_of_a_wrapper_come_after_those_of_the_data_set_in_it():
    inner = dict(pipeline=[LOAD, RESIZE])
    cfg = Config(dict(test_dataloader=dict(dataset=dict(dataset=inner, pipeline=[PAD, PACK]))))
    assert pixel_steps(cfg) == PixelSteps(RESIZE, PAD)


def test_data_sets_side_by_side_must_have_one_pipeline():
    same = dict(pipeline=[LOAD, RESIZE])
    cfg = Config(dict(test_dataloader=dict(dataset=dict(datasets=[same, same]))))
    assert pixel_steps(cfg) == PixelSteps(RESIZE, None)
    cfg.test_dataloader.dataset.datasets[1].pipeline[1].scale = (32, 32)
    with pytest.raises(UnsupportedError, match="in different ways"):
        pixel_steps(cfg)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/_base_/datasets").glob("*.py")), ids=lambda path: path.stem
)
def test_data_sets_of_this_project_have_pipelines_that_a_file_can_follow(path):
    cfg = Config.fromfile(path, import_custom_modules=False)
    if "test_dataloader" in cfg:
        assert pixel_steps(cfg).resize is not None
