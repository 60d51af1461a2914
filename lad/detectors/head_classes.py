"""How many classes the heads of a detector tell apart."""

from __future__ import annotations

from collections.abc import Iterator

from lad.detectors.masks import mask_heads, num_mask_classes

from mmdet.models.detectors import RPN
from torch import nn


def head_classes(model: nn.Module) -> Iterator[tuple[str, int]]:
    """The box and mask heads that tell classes apart, by their names in the detector, and how many classes."""
    # An RPN makes all labels 0.
    agnostic = [name for name, module in model.named_modules() if isinstance(module, RPN)]
    for name, head in model.named_modules():
        # A cascade's are bbox_head.0 and so on.
        counts = "bbox_head" in name.split(".")[-2:] and isinstance(getattr(head, "num_classes", None), int)
        if counts and not any(name.startswith(f"{owner}." if owner else "") for owner in agnostic):
            yield name, head.num_classes
    for name, head in mask_heads(model).items():
        known = num_mask_classes(head)
        if known is not None:
            yield name, known
