"""An exported file's preparation of images is that of the config's own pipeline, and another one is noticed."""

from lad.errors import UnsupportedError
from lad.export.preparation import own_inputs, own_steps
from lad.export.rule import InputRule, input_rule

import numpy as np
import pytest
from mmengine.config import Config

LOAD, PACK = dict(type="LoadImageFromFile"), dict(type="PackDetInputs")
SQUARE_PAD = dict(type="Pad", pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0)))
#: Those of MMDetection's configs, with smaller sizes.
PIPELINES = {
    "coco": [dict(type="Resize", scale=(133, 80), keep_ratio=True)],
    "rtmdet": [
        dict(type="Resize", scale=(64, 64), keep_ratio=True),
        dict(type="Pad", size=(64, 64), pad_val=dict(img=(114, 114, 114))),
    ],
    "yolox": [dict(type="Resize", scale=(64, 64), keep_ratio=True), SQUARE_PAD],
    "yolox_wide": [dict(type="Resize", scale=(96, 64), keep_ratio=True), SQUARE_PAD],
    "bytetrack": [
        dict(type="Resize", scale=(144, 80), keep_ratio=True),
        dict(type="Pad", size_divisor=32, pad_val=dict(img=(114.0, 114.0, 114.0))),
    ],
    "ssd": [dict(type="Resize", scale=(48, 48), keep_ratio=False)],
    "upright": [dict(type="Resize", scale=(45, 77), keep_ratio=True)],
    "number": [dict(type="Resize", scale=48, keep_ratio=True)],
}
SIZES = ((48, 64), (64, 48), (33, 50), (100, 100), (7, 120), (121, 120), (300, 201))


def config(*steps, **preprocessor):
    preprocessor = dict(
        dict(mean=[123.675, 116.28, 103.53], bgr_to_rgb=True, pad_size_divisor=32), **preprocessor
    )
    dataset = dict(pipeline=[LOAD, *steps, PACK])
    return Config(dict(model=dict(data_preprocessor=preprocessor), test_dataloader=dict(dataset=dataset)))


def images():
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3)).astype(np.uint8) for size in SIZES]


@pytest.mark.parametrize("shape", [None, (64, 96)])
@pytest.mark.parametrize("name", PIPELINES)
def test_rule_prepares_images_as_the_pipeline_does(name, shape):
    cfg = config(*PIPELINES[name])
    rule = input_rule(cfg, shape)
    inputs, factors = own_inputs(own_steps(cfg, shape), rule, images())
    for image, own, factor in zip(images(), inputs, factors, strict=True):
        expected, expected_factor = rule.prepare(image)
        np.testing.assert_array_equal(own, expected)
        assert factor == expected_factor


def test_pipeline_without_a_resize_gets_the_shape_that_is_asked_for():
    cfg = config()
    inputs, _ = own_inputs(own_steps(cfg, (64, 96)), input_rule(cfg, (64, 96)), images())
    assert inputs.shape == (len(SIZES), 3, 64, 96)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([dict(type="Resize", scale=(64, 64), keep_ratio=True, interpolation="nearest")], "differ, by up to"),
        ([dict(type="Resize", scale=(32, 32), keep_ratio=True)], "differ, by up to"),
        ([dict(type="Resize", scale=(80, 80), keep_ratio=True)], "more than the input's 64 x 64"),
        (
            [
                dict(type="mmcv.CenterCrop", crop_size=(32, 32)),
                dict(type="Resize", scale=(64, 64), keep_ratio=True),
            ],
            r"does not prepare images as the test pipeline does: .* image 1 of 7 \(64 x 48\)",
        ),
    ],
)
def test_other_preparation_is_noticed(steps, message):
    rule = InputRule((64, 64), (64, 64), True, (103.53, 116.28, 123.675))
    with pytest.raises(UnsupportedError, match=message) as refused:
        own_inputs(steps, rule, images())
    assert "\n" not in str(refused.value)


def test_without_a_pipeline_images_are_prepared_by_the_rule():
    rule = InputRule((64, 64), (64, 64), True, (0.0,))
    inputs, _ = own_inputs((), rule, images())
    np.testing.assert_array_equal(inputs[2], rule.prepare(images()[2])[0])
