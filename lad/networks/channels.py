"""Number of channels of the images that a detector takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lad.base.modes import evaluating
from lad.errors import ConfigError, UnsupportedError
from lad.networks.speed import uncompiled

import torch
from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

#: Channels of colour images, which MMDetection reads unless a config specifies otherwise.
COLOUR = 3
#: Numbers of channels that are tried where the first convolution does not tell.
SEARCHED = range(COLOUR, 17)
#: Height and width, in pixels, of the images that are shown to a detector to infer something about it.
IMAGE_SIZE = (128, 128)


def image_channels(model: BaseDetector) -> int:
    """Number of channels of the images that a detector takes: those with which its first convolution works.

    The backbone runs on zero images of 3 and of 4 channels as far as its first convolution. How many channels arrive
    there tells what is done to images before (YOLOX's ``Focus`` folds four pixels into one, other backbones append
    coordinates), and so for which images the expected number arrives. Where that does not depend on the images, as in a
    backbone that shares them out among branches, it is the first number from 3 on with which the backbone runs. Where
    no convolution is reached, it is the length of the data preprocessor's mean, or 3. The detector is as before.

    Args:
        model: A detector; of a distillation detector the deployed network counts.
    """
    first, second = (_first_convolution(model, channels) for channels in (COLOUR, COLOUR + 1))
    if first is not None and second is not None:
        per_channel = second.given - first.given
        if per_channel == 0:
            return next((channels for channels in SEARCHED if _runs(model, channels)), COLOUR)
        more, rest = divmod(first.expected - first.given, per_channel)
        if rest == 0 and COLOUR + more > 0:
            return COLOUR + more
    elif first is not None and first.expected == first.given:
        return COLOUR
    mean = getattr(model.data_preprocessor, "mean", None)
    return len(mean) if isinstance(mean, Tensor) else COLOUR


def _run_backbone(model: BaseDetector, channels: int) -> None:
    """Run the backbone on a zero image; the detector is as before."""
    backbone = getattr(model, "backbone", None)
    run = backbone if isinstance(backbone, nn.Module) else model.extract_feat
    with torch.no_grad(), evaluating(model), torch.random.fork_rng(devices=[]), uncompiled():
        run(zero_images(model, channels, num=1))


def _first_convolution(model: BaseDetector, channels: int) -> _FirstConvolution | None:
    """The first convolution that images of some number of channels reach; None if they reach none."""
    convolution = _FirstConvolution()
    try:
        with convolution:
            _run_backbone(model, channels)
    except Exception:  # The mode's own, or any other: some backbones will not take these images.
        return convolution if convolution.expected else None
    return None


def _runs(model: BaseDetector, channels: int) -> bool:
    try:
        _run_backbone(model, channels)
    except Exception:  # Any backbone may come here.
        return False
    return True


def zero_images(
    model: BaseDetector, channels: int | None = None, num: int = 2, size: tuple[int, int] = IMAGE_SIZE
) -> Tensor:
    """Zero images (num, channels, height, width) on the device of a detector and in its precision.

    By default with the channels that it takes, and two: group norm refuses groups of a single value, which narrow heads
    have on the coarsest level of one image.
    """
    channels = image_channels(model) if channels is None else channels
    return next(model.parameters()).new_zeros(num, channels, *size)


class _FirstConvolution(TorchFunctionMode):
    """Mode that raises an error in place of the first 2D convolution.

    Attributes:
        expected: Number of channels that the convolution takes; 0 before one is reached.
        given: Number of channels of its input.
    """

    expected = 0
    given = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is not torch.nn.functional.conv2d:
            return func(*args, **kwargs)
        images, weight = (*args, *(kwargs[name] for name in ("input", "weight") if name in kwargs))[:2]
        groups = kwargs.get("groups", args[6] if len(args) > 6 else 1)
        self.expected, self.given = weight.shape[1] * groups, images.shape[1]
        raise RuntimeError("the first convolution is reached")


def check_preprocessing(model: BaseDetector, path: str = "model") -> None:
    """Refuse a data preprocessor that makes images of another number of channels than the detector takes.

    Args:
        model: A plain detector.
        path: What to call it in messages.

    Raises:
        ConfigError: names the setting.
    """
    preprocessor = model.data_preprocessor
    mean, std = (getattr(preprocessor, name, None) for name in ("mean", "std"))
    lengths = {len(value) for value in (mean, std) if isinstance(value, Tensor)} - {1}
    converts = bool(getattr(preprocessor, "_channel_conversion", False))
    if not lengths and not converts:
        return
    channels = image_channels(model)
    takes = f"{path}.backbone ({type(model.backbone).__name__}) takes images of {_plural(channels)}"
    if other := sorted(lengths - {channels}):
        raise ConfigError(
            f"{path}.data_preprocessor has mean and std of {other[0]} values, and {takes}: give each 1 value, or set "
            f"in_channels={other[0]} of the backbone."
        )
    if converts and channels != COLOUR:
        raise ConfigError(
            f"{path}.data_preprocessor swaps the channels of colour images, and {takes}: set bgr_to_rgb=False and "
            "rgb_to_bgr=False."
        )


def repeats_of_grey(name: str, network: BaseDetector, images_of: BaseDetector) -> int:
    """How often the channel of grey images is repeated for a network that takes colour images; 1 for equal numbers.

    A grey image repeated is what MMDetection reads of a grey file for a colour detector.

    Args:
        name: What to call the network in the message.
        network: The network.
        images_of: The detector whose images it is shown.

    Raises:
        UnsupportedError: their numbers of channels differ otherwise.
    """
    wanted, given = image_channels(network), image_channels(images_of)
    if wanted == given:
        return 1
    if (given, wanted) == (1, COLOUR):
        return COLOUR
    raise UnsupportedError(
        f"{name} ({type(network).__name__}) takes images of {_plural(wanted)} and is shown those of "
        f"{type(images_of).__name__}, which have {given}: give both backbones the same in_channels; beside it, images "
        f"of 1 channel can be shown to a network for {COLOUR}."
    )


def _plural(channels: int) -> str:
    return f"{channels} channel{'s' * (channels != 1)}"
