"""Scale between the images that a detector gets and files of 8 bits."""

import copy

from lad.synthesis.dataset import png
from lad.synthesis.pixels import PixelScale

import pytest
import torch
from dense_detectors import dense
from helpers import build
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import PackDetInputs
from mmengine.dataset import pseudo_collate


def detector(**preprocessor):
    config = copy.deepcopy(dense("retinanet"))
    config.data_preprocessor.update(preprocessor)
    return build(config)


PREPROCESSORS = {
    "rgb": dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    "bgr": dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    "levels": dict(mean=None, std=None, bgr_to_rgb=False),
    "grey_mean": dict(mean=[127.5], std=[60.0], bgr_to_rgb=True),
}


@pytest.mark.parametrize("kind", PREPROCESSORS)
def test_written_images_are_what_the_detector_gets_when_they_are_loaded(kind, tmp_path):
    model = detector(**PREPROCESSORS[kind])
    scale = PixelScale.of(model, 3)
    images = scale.clip(torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
    loaded = []
    for number, pixels in enumerate(scale.to_bytes(images).numpy()):
        path = tmp_path / f"{number}.png"
        path.write_bytes(png(pixels))
        result = LoadImageFromFile()(dict(img_path=str(path)))
        loaded.append(PackDetInputs(meta_keys=("ori_shape", "img_shape"))(result))
    given = model.data_preprocessor(pseudo_collate(loaded))["inputs"]
    assert torch.allclose(scale.for_detector(scale.rounded(images)), given, atol=1e-4)
    # Half a grey level.
    assert ((scale.rounded(images) - images).abs() * scale.std).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("kind", PREPROCESSORS)
def test_clipped_images_are_within_8_bits(kind):
    scale = PixelScale.of(detector(**PREPROCESSORS[kind]), 3)
    levels = scale.clip(torch.linspace(-1e4, 1e4, 300).view(1, 3, 10, 10)) * scale.std + scale.mean
    assert levels.min() == pytest.approx(0, abs=1e-3)
    assert levels.max() == pytest.approx(255, abs=1e-3)


def test_grey_images_have_one_channel():
    config = copy.deepcopy(dense("retinanet"))
    config.backbone.in_channels = 1
    config.data_preprocessor.update(mean=[100.0], std=[50.0], bgr_to_rgb=False)
    scale = PixelScale.of(build(config), 1)
    pixels = scale.to_bytes(torch.tensor([[[[-2.0, 0.0, 1.0, 9.0]]]]))
    assert pixels.tolist() == [[[[0], [100], [150], [255]]]]
