"""Renormalisation: what another network's config makes of images that are normalised already."""

import itertools

from lad.networks.preprocessing import Renormalisation

import pytest
import torch
from helpers import make_batch
from image_channels import preprocessing
from mmdet.models import DetDataPreprocessor
from mmdet.registry import MODELS

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
UNIT = dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], bgr_to_rgb=True)
NOTHING = dict(mean=None, std=None)
PADDED = dict(UNIT, pad_value=0.5)
SETTINGS = [IMAGENET, CAFFE, UNIT, NOTHING, PADDED]


def normalised(settings, images, samples):
    preprocessor = DetDataPreprocessor(pad_size_divisor=32, **settings)
    data = dict(inputs=[image.clone() for image in images], data_samples=samples)
    return preprocessor, preprocessor(data, training=False)["inputs"]


@pytest.mark.parametrize("target", SETTINGS)
@pytest.mark.parametrize("source", SETTINGS)
def test_images_of_bytes_are_to_the_bit_what_the_target_makes_of_them(source, target):
    shapes = [(60, 90), (64, 96)]
    _, samples = make_batch((1, 1), (64, 96), shapes=shapes)
    # Every value of a byte in every channel, and others.
    values = torch.arange(64 * 96).view(64, 96) % 256
    images = [torch.stack([values, values.flip(0), 255 - values])[:, :h, :w].byte() for h, w in shapes]
    own, inputs = normalised(source, images, samples)
    wanted, expected = normalised(target, images, samples)
    assert torch.equal(Renormalisation(own, wanted, exact=True)(inputs, samples), expected)
    torch.testing.assert_close(Renormalisation(own, wanted)(inputs, samples), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("fraction", [0.5, 0.25, 0.001])
def test_pixels_that_are_not_whole_stay_what_they_are(fraction):
    """Colour jitter in floating point."""
    _, samples = make_batch((1, 1), (64, 96))
    images = [torch.full((3, 64, 96), value + fraction) for value in (3.0, 200.0)]
    own, inputs = normalised(IMAGENET, images, samples)
    wanted, expected = normalised(UNIT, images, samples)
    torch.testing.assert_close(
        Renormalisation(own, wanted, exact=True)(inputs, samples), expected, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_images_of_any_number_of_channels_are_what_the_target_makes_of_them(channels):
    """Means of one value, of one for each channel, and none."""
    shapes = [(60, 90), (64, 96)]
    _, samples = make_batch((1, 1), (64, 96), shapes=shapes)
    images = [torch.randint(0, 256, (channels, h, w), dtype=torch.uint8) for h, w in shapes]

    def normalised(values):
        preprocessor = MODELS.build(preprocessing(values))
        data = dict(inputs=[image.clone() for image in images], data_samples=samples)
        return preprocessor, preprocessor(data, training=False)["inputs"]

    for source, target in itertools.product((None, 1, channels), repeat=2):
        own, inputs = normalised(source)
        wanted, expected = normalised(target)
        assert torch.equal(Renormalisation(own, wanted, exact=True)(inputs, samples), expected)
        renormalise = Renormalisation(own, wanted)
        torch.testing.assert_close(renormalise(inputs, samples), expected, rtol=1e-5, atol=1e-4)
        assert renormalise.is_identity == (source == target)


@pytest.mark.parametrize("grey", [dict(mean=[110.0], std=[50.0]), dict(mean=[0.0], std=[255.0]), NOTHING])
@pytest.mark.parametrize("colour", [IMAGENET, CAFFE, NOTHING, dict(mean=[110.0], std=[50.0])])
@pytest.mark.parametrize("exact", [True, False])
def test_grey_images_are_what_a_colour_network_makes_of_the_grey_file(grey, colour, exact):
    """OpenCV reads a grey file as three equal channels."""
    shapes = [(60, 90), (64, 96)]
    _, samples = make_batch((1, 1), (64, 96), shapes=shapes)
    images = [torch.randint(0, 256, (1, h, w), dtype=torch.uint8) for h, w in shapes]
    own, inputs = normalised(grey, images, samples)
    wanted, expected = normalised(colour, [image.expand(3, -1, -1) for image in images], samples)
    found = Renormalisation(own, wanted, exact=exact, repeat=3)(inputs, samples)
    assert found.shape == (2, 3, 64, 96)
    if exact:
        assert torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
