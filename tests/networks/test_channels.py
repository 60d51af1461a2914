"""Detectors are asked for how many channels of an image they take, and what does not go with that is refused."""

from lad.errors import ConfigError, UnsupportedError
from lad.networks.channels import check_preprocessing, image_channels, repeats_of_grey
from lad.networks.dry_run import dry_run
from lad.networks.shapes import check_shapes

import pytest
import torch
from helpers import small_paa
from image_channels import FAMILIES, detector, preprocessing
from mmdet.models import DetDataPreprocessor
from mmdet.registry import MODELS
from torch import nn


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_channels_are_those_of_the_first_convolution(family, channels):
    model = MODELS.build(detector(family, channels)).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flags, numbers = [module.training for module in model.modules()], torch.get_rng_state()
    assert image_channels(model) == channels
    # The images of a dry run fit.
    assert dry_run(model, ["backbone"]).calls("backbone")
    check_shapes(model)
    # Some weights of SSD have no value before they are initialised.
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0, equal_nan=True)
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), numbers)


class Backbone(nn.Module):
    """Applies a function to images, then a convolution."""

    def __init__(self, before, expected, groups=1):
        super().__init__()
        self.before = before
        self.conv = nn.Conv2d(expected, 4, 3, groups=groups)

    def forward(self, images):
        return (self.conv(self.before(images)),)


class Branches(nn.Module):
    """A convolution for the first three channels of an image, another for the others."""

    def __init__(self, others):
        super().__init__()
        self.colour, self.depth = nn.Conv2d(3, 4, 3), nn.Conv2d(others, 4, 3)

    def forward(self, images):
        return (self.colour(images[:, :3]) + self.depth(images[:, 3:]),)


class Patches(nn.Module):
    """Linear embedding of patches; no convolution."""

    def __init__(self, channels):
        super().__init__()
        self.embed = nn.Linear(channels * 64, 4)

    def forward(self, images):
        return (self.embed(nn.functional.unfold(images, 8, stride=8).transpose(1, 2)),)


def with_coordinates(images):
    rows, columns = torch.meshgrid(*(torch.linspace(0, 1, size) for size in images.shape[-2:]), indexing="ij")
    return torch.cat([images, rows.expand_as(images[:, :1]), columns.expand_as(images[:, :1])], dim=1)


def centred(images):
    return images - torch.tensor([1.0, 2.0, 3.0])[:, None, None]


BACKBONES = [
    (Backbone(nn.Identity(), 5), 5),
    (Backbone(nn.Identity(), 4, groups=4), 4),
    (Backbone(nn.BatchNorm2d(3), 3), 3),
    (Backbone(nn.PixelUnshuffle(4), 16), 1),
    (Backbone(nn.PixelUnshuffle(4), 96), 6),
    (Backbone(with_coordinates, 3), 1),
    (Backbone(with_coordinates, 8), 6),
    # Three channels become one; or are three in any case.
    (Backbone(lambda images: images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1), 3), 3),
    (Backbone(centred, 3), 3),
    (Branches(1), 4),
    (Branches(3), 6),
    (Patches(4), 4),
    (Patches(1), 1),
]


class Model(nn.Module):
    def __init__(self, backbone, values=1):
        super().__init__()
        self.backbone = backbone
        self.data_preprocessor = MODELS.build(preprocessing(values))


@pytest.mark.parametrize(("backbone", "expected"), BACKBONES)
def test_what_a_backbone_does_before_its_first_convolution_is_allowed_for(backbone, expected):
    model = Model(backbone, expected)
    assert image_channels(model) == expected
    backbone(torch.zeros(1, expected, 32, 32))


def test_without_convolution_and_mean_images_have_three_channels():
    assert image_channels(Model(Patches(3), None)) == 3


def test_batch_norm_before_the_first_convolution_keeps_its_statistics():
    norm = nn.BatchNorm2d(3)
    assert image_channels(Model(Backbone(norm, 3)).train()) == 3
    assert norm.num_batches_tracked == 0


class Normalised(nn.Module):
    """A detector's data preprocessor and the first convolution of its backbone."""

    def __init__(self, channels, **settings):
        super().__init__()
        self.backbone = Backbone(nn.Identity(), channels)
        self.data_preprocessor = DetDataPreprocessor(**settings)


@pytest.mark.parametrize(
    ("channels", "settings"),
    [
        (1, dict(mean=[110.0], std=[50.0])),
        (1, {}),
        (3, dict(mean=[1.0, 2.0, 3.0], std=[1.0], bgr_to_rgb=True)),
        (3, dict(mean=[110.0], std=[50.0], rgb_to_bgr=True)),
        (4, dict(mean=[110.0], std=[50.0])),
        (6, {}),
    ],
)
def test_normalisation_of_one_value_of_one_a_channel_or_none_fits(channels, settings):
    model = Normalised(channels, **settings)
    check_preprocessing(model)
    image = torch.zeros(channels, 32, 32, dtype=torch.uint8)
    model.backbone(model.data_preprocessor(dict(inputs=[image], data_samples=None))["inputs"])


@pytest.mark.parametrize(
    ("channels", "settings", "says"),
    [
        (
            1,
            dict(mean=[1.0, 2.0, 3.0], std=[1.0] * 3),
            "mean and std of 3 values, .* of 1 channel: give each 1 value, or set in_channels=3",
        ),
        (
            4,
            dict(mean=[1.0], std=[1.0] * 3),
            "mean and std of 3 values, .* images of 4 channels: give each 1 value",
        ),
        (1, dict(bgr_to_rgb=True), "swaps .*images of 1 channel: set bgr_to_rgb=False"),
        (6, dict(mean=[1.0], std=[1.0], rgb_to_bgr=True), "swaps .*images of 6 channels"),
    ],
)
def test_normalisation_of_other_images_is_refused_in_one_line(channels, settings, says):
    with pytest.raises(ConfigError, match=rf"model.student.data_preprocessor .*{says}") as error:
        check_preprocessing(Normalised(channels, **settings), "model.student")
    assert "\n" not in str(error.value)


def test_each_network_of_a_detector_is_checked():
    def grey(mean):
        config = small_paa()
        config.backbone.in_channels = 1
        config.data_preprocessor = dict(type="DetDataPreprocessor", mean=mean, std=mean, pad_size_divisor=32)
        return config

    networks = dict(a=grey([1.0]), b=grey([1.0] * 3))
    model = MODELS.build(dict(type="DistillationDetector", networks=networks, methods=[]))
    with pytest.raises(
        ConfigError, match=r"model\.networks\.b\.data_preprocessor has mean and std of 3 values"
    ):
        check_shapes(model)


def test_grey_images_are_repeated_for_colour_and_nothing_else():
    models = {channels: Model(Backbone(nn.Identity(), channels)) for channels in (1, 3, 4, 6)}
    for channels, model in models.items():
        assert repeats_of_grey("teacher", model, images_of=model) == 1
        for other in set(models) - {channels}:
            if (channels, other) == (1, 3):
                assert repeats_of_grey("teacher", models[other], images_of=model) == 3
                continue
            with pytest.raises(
                UnsupportedError,
                match=rf"teacher \(Model\) takes images of {other} .*have {channels}: give both",
            ):
                repeats_of_grey("teacher", models[other], images_of=model)
