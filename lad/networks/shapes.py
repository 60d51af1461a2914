"""Whether the parts of a detector fit together, seen from two images of zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lad.base.modes import evaluating
from lad.compat.messages import TORCH_SHAPE_MISMATCH, expected_channels
from lad.errors import ConfigError
from lad.networks.channels import check_preprocessing, zero_images
from lad.networks.forward import PLAIN_FEATURES

import torch
from mmdet.models.dense_heads import AnchorFreeHead, AnchorHead
from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn

#: Side of the images in pixels; MMDetection's detectors take it whatever they were made for.
SIDE = 128


def check_shapes(model: BaseDetector, path: str = "model") -> None:
    """Run backbone, neck and dense heads once and refuse parts that do not fit.

    Images have the channels that the backbone takes. The detector is as before: no statistics of a batch norm, no
    training flag and no random state change. Detectors that are put together otherwise than MMDetection's one-stage and
    two-stage detectors are passed over.

    Args:
        model: A detector, or one that trains several as its ``trained_networks``.
        path: What to call it in messages.

    Raises:
        ConfigError: channels, number of feature maps or strides do not fit.
    """
    networks = getattr(model, "trained_networks", None)
    if networks is not None:
        for name, network in networks.items():
            check_shapes(network, f"{path}.{name}" if len(networks) == 1 else f"{path}.networks.{name}")
        return None
    check_preprocessing(model, path)
    if type(model).extract_feat not in PLAIN_FEATURES:
        return None
    try:
        with evaluating(model), torch.random.fork_rng(devices=[]), torch.no_grad():
            _check_parts(model, path)
    except ConfigError:
        raise
    except Exception:
        # A part that these images do not suit is not wrong; one that is raises its error in the first step.
        return None
    return None


def _check_parts(model: BaseDetector, path: str) -> None:
    modules = model._modules
    images = zero_images(model, size=(SIDE, SIDE))
    features = _run(model.backbone, images, f"{path}.backbone", f"images of {images.shape[1]} channels")
    if isinstance(modules.get("neck"), nn.Module):
        given = f"the outputs of {path}.backbone ({_described(features)})"
        wanted = getattr(model.neck, "in_channels", None)
        if isinstance(wanted, Sequence) and len(wanted) != len(features):
            raise ConfigError(
                f"{path}.neck ({type(model.neck).__name__}) has in_channels for {len(wanted)} feature maps and is "
                f"given {given}: set its in_channels, or the backbone's out_indices."
            )
        features = _run(model.neck, features, f"{path}.neck", given)
    for name in ("bbox_head", "rpn_head"):
        head = modules.get(name)
        if isinstance(head, (AnchorHead, AnchorFreeHead)):
            strides = [max(_pair(stride)) for stride in head.prior_generator.strides]
            if len(strides) != len(features):
                raise ConfigError(
                    f"{path}.{name} ({type(head).__name__}) has strides for {len(strides)} feature maps ({strides}) "
                    f"and is given {_described(features)}: set its strides, or the neck's num_outs."
                )
            _check_strides(f"{path}.{name} ({type(head).__name__})", strides, features)
            _run(head, features, f"{path}.{name}", _described(features))
    extractor = getattr(modules.get("roi_head"), "bbox_roi_extractor", None)
    featmap_strides = getattr(extractor, "featmap_strides", None)
    if featmap_strides is not None:
        strides = list(featmap_strides)
        _check_strides(f"{path}.roi_head.bbox_roi_extractor", strides, features[: len(strides)])


def _run(module: nn.Module, given: Any, name: str, what: str) -> Any:
    """Run a module; turn a misfit of shapes into an error that names it."""
    try:
        return module(given)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        # Any other error may be the fault of these images alone.
        if not TORCH_SHAPE_MISMATCH.search(reason):
            raise
        channels = expected_channels(reason)
        wants = reason[:160] if channels is None else f"it wants {channels} channels"
        raise ConfigError(
            f"{name} ({type(module).__name__}) cannot take {what}: {wants}; set its in_channels."
        ) from error


def _check_strides(name: str, strides: Sequence[int], features: Sequence[Tensor]) -> None:
    for level, (stride, feature) in enumerate(zip(strides, features, strict=False)):
        height = feature.shape[-2]
        # Maps of one row are too coarse to tell; and rounding makes a map of 9 rows where 8 are due.
        if height >= 2 and abs(math.log2(SIDE / height / stride)) > 0.9:
            raise ConfigError(
                f"{name} has stride {stride} for feature map {level}, which has a stride of {SIDE / height:g}: set the "
                f"strides to those of the feature maps, or the neck's start_level and the backbone's out_indices."
            )


def _pair(stride: int | Sequence[int]) -> Sequence[int]:
    return stride if isinstance(stride, Sequence) else (stride,)


def _described(features: Sequence[Tensor]) -> str:
    """'4 maps with 16, 32, 64, 128 channels'."""
    channels = [str(feature.shape[1]) for feature in features]
    return f"{len(channels)} maps with {', '.join(channels)} channels"
