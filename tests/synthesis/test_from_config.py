"""What a detector's config tells about the images that it was trained on."""

from lad.base.config import load_config
from lad.errors import ConfigError
from lad.synthesis.from_config import flip_prob, image_size

import pytest
from helpers import ROOT
from mmengine.config import Config


@pytest.mark.parametrize(
    ("path", "size", "prob"),
    [
        (str(ROOT / "configs/lad/paa_r18-c32_fpn_digits.py"), (128, 128), 0.0),  # a mirrored 3 is no 3
        (str(ROOT / "configs/lad/paa_r18_fpn_bccd.py"), (256, 320), 0.5),
        ("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", (800, 1344), 0.5),
        ("mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py", (640, 640), 0.5),
        ("mmdet::yolox/yolox_s_8xb8-300e_coco.py", (640, 640), 0.5),  # in the pipeline of a wrapper
    ],
)
def test_size_and_mirroring_of_known_configs(path, size, prob):
    cfg = load_config(path)
    assert image_size(cfg) == size
    assert flip_prob(cfg) == prob


def pipelines(test=(), train=()):
    return Config(
        dict(
            test_dataloader=dict(dataset=dict(type="CocoDataset", pipeline=list(test))),
            train_dataloader=dict(
                dataset=dict(type="RepeatDataset", dataset=dict(type="CocoDataset", pipeline=list(train)))
            ),
        )
    )


def test_pipeline_without_a_size_is_refused_with_the_option_that_gives_it():
    with pytest.raises(ConfigError, match="give the images' size with --size"):
        image_size(pipelines(test=[dict(type="LoadImageFromFile")]))
    with pytest.raises(ConfigError, match="--size"):
        image_size(Config())


def test_mirroring_inside_of_another_transform_counts():
    nested = dict(type="MultiBranch", sup=[dict(type="RandomFlip", prob=0.4)])
    assert flip_prob(pipelines(train=[nested])) == 0.4


def test_vertical_mirroring_is_none_of_left_and_right():
    assert flip_prob(pipelines(train=[dict(type="RandomFlip", prob=0.5, direction="vertical")])) == 0
    assert flip_prob(pipelines(train=[dict(type="mmdet.RandomFlip", prob=0.3)])) == 0.3
    assert flip_prob(Config()) == 0
