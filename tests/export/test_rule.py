"""How images become inputs: sizes and values by hand."""

from lad.errors import ConfigError, DataError
from lad.export.rule import InputRule, input_rule

import cv2
import numpy as np
import pytest
from mmdet.datasets.transforms import Resize
from mmengine.config import Config


def config(*steps, **preprocessor):
    dataset = dict(type="RepeatDataset", dataset=dict(pipeline=[dict(type="LoadImageFromFile"), *steps]))
    return Config(dict(model=dict(data_preprocessor=preprocessor), test_dataloader=dict(dataset=dataset)))


def test_pipeline_that_pads_in_batches():
    cfg = config(
        dict(type="Resize", scale=(1333, 800), keep_ratio=True),
        mean=[123.0, 116.0, 103.0],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    )
    assert input_rule(cfg) == InputRule((800, 1344), (800, 1333), True, (103.0, 116.0, 123.0))
    assert input_rule(cfg, (256, 320)) == InputRule((256, 320), (256, 320), True, (103.0, 116.0, 123.0))
    with pytest.raises(ConfigError, match="multiples of 32"):
        input_rule(cfg, (250, 320))


def test_pipeline_that_pads_itself():
    cfg = config(
        dict(type="mmdet.Resize", scale=(640, 480), keep_ratio=True),
        dict(type="Pad", size=(640, 640), pad_val=dict(img=(114, 114, 114))),
        mean=[1.0, 2.0, 3.0],
    )
    assert input_rule(cfg) == InputRule((640, 640), (480, 640), True, (114.0, 114.0, 114.0))


def test_pipeline_that_pads_to_a_square_has_a_square_input():
    resize, pad = dict(type="Resize", scale=(640, 480), keep_ratio=True), dict(type="Pad", pad_to_square=True)
    assert input_rule(config(resize, pad)) == InputRule((640, 640), (480, 640), True, (0.0, 0.0, 0.0))


def test_shape_must_suit_what_the_pipeline_pads_to():
    cfg = config(
        dict(type="Resize", scale=(640, 480)), dict(type="Pad", size_divisor=24), pad_size_divisor=32
    )
    with pytest.raises(ConfigError, match="multiples of 96"):
        input_rule(cfg, (64, 96))


def test_image_that_lies_across_the_input_is_told():
    wide = InputRule((64, 96), (60, 96), True, (0.0,))
    sizes = ((6, 12), (12, 6), (9, 9))
    assert [wide.lies_across(np.zeros((*size, 3))) for size in sizes] == [False, True, False]
    square, stretched = InputRule((8, 8), (8, 8), True, (0.0,)), InputRule((8, 9), (8, 9), False, (0.0,))
    assert not any(rule.lies_across(np.zeros((*size, 3))) for rule in (square, stretched) for size in sizes)


def test_image_of_which_nothing_would_be_left_is_refused_where_the_pipeline_fails():
    rule = InputRule((96, 128), (96, 128), True, (0.0,))
    thin = np.zeros((1, 600, 3), np.uint8)
    with pytest.raises(cv2.error):
        Resize(scale=(128, 96), keep_ratio=True).transform(dict(img=thin))
    with pytest.raises(DataError, match=r"600 x 1 pixels is too thin: .* 128 x 0 .*leave it out") as refused:
        rule.prepare(thin)
    assert "\n" not in str(refused.value)
    assert rule.prepare(np.zeros((3, 600, 3), np.uint8))[1] == (128 / 600, 1 / 3)


def test_pipeline_without_a_size_needs_one():
    with pytest.raises(ConfigError, match="--shape"):
        input_rule(config())


def test_image_is_resized_and_padded():
    rule = InputRule(shape=(8, 8), limit=(8, 6), keep_ratio=True, pad_value=(1.4, 2.0, 2.6))
    image = np.full((6, 12, 3), 50, np.uint8)
    prepared, factors = rule.prepare(image)
    # 6 / 12: half the width and height.
    assert factors == (0.5, 0.5)
    assert (prepared[:, :3, :6] == 50).all()
    assert (prepared[:, 3:].reshape(3, -1) == [[1], [2], [3]]).all()
    assert (prepared[:, :, 6:].reshape(3, -1) == [[1], [2], [3]]).all()
    stretched, factors = InputRule((8, 6), (8, 6), False, (0.0,)).prepare(image)
    assert stretched.shape == (3, 8, 6)
    assert factors == (0.5, 8 / 6)


def test_rule_survives_a_file():
    rule = InputRule((8, 8), (8, 6), True, (1.5, 2.0, 2.5))
    assert InputRule.from_json(rule.to_json()) == rule
