"""Detectors from which no images can be synthesised, each with its reason in one line."""

from __future__ import annotations

from lad.detectors.masks import predicts_masks
from lad.errors import UnsupportedError
from lad.networks.channels import COLOUR, image_channels
from lad.synthesis.statistics import batch_norms

from mmdet.models.detectors import BaseDetector, PanopticFPN
from torch import nn


def check_synthesisable(model: BaseDetector) -> None:
    """Refuse a teacher whose loss needs more than boxes and classes, or whose layers remember no statistics.

    Raises:
        UnsupportedError: names the detector, the reason and what would work.
    """
    name = type(model).__name__
    if not isinstance(model, BaseDetector):
        raise UnsupportedError(f"{name} is no detector of MMDetection: give the config of a plain detector.")
    if isinstance(model, PanopticFPN) or any(
        hasattr(model, head) for head in ("panoptic_head", "panoptic_fusion_head", "semantic_head")
    ):
        raise UnsupportedError(
            f"no images can be synthesised from {name}: it needs segmentations of whole images, and only boxes and "
            "classes are drawn; give a teacher for boxes."
        )
    if predicts_masks(model):
        raise UnsupportedError(
            f"no images can be synthesised from {name}: its loss needs masks, and only boxes and classes are drawn; "
            "give a teacher without a mask head."
        )
    if not batch_norms(model):
        others = sorted({type(one).__name__ for one in model.modules() if _normalises(one)})
        raise UnsupportedError(
            f"no images can be synthesised from {name}: it has no batch norm with running statistics "
            f"({', '.join(others) or 'no normalisation'} instead), which tell what its training images were like; "
            "give a teacher whose backbone has batch norm."
        )
    channels = image_channels(model)
    if channels not in (1, COLOUR):
        raise UnsupportedError(
            f"no images can be synthesised from {name}: it takes images of {channels} channels, and image files have "
            "1 or 3."
        )


def _normalises(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Norm") or "Norm" in type(module).__name__
