"""Boxes of detectors that predict masks alone."""

from __future__ import annotations

from mmdet.structures.mask import mask2bbox
from mmengine.structures import InstanceData


def with_boxes(instances: InstanceData) -> InstanceData:
    """Predicted instances with the boxes of their masks, where a detector predicts masks alone.

    SOLO returns boxes of zeros.

    Args:
        instances: ``bboxes`` (n, 4), and possibly ``masks`` (n, H, W) in the same pixels; left as it is.
    """
    # The device is waited for: predictions are on their way to the host.
    if "masks" not in instances or bool(instances.bboxes.any()):
        return instances
    boxed = InstanceData(**dict(instances.items()))
    boxed.bboxes = mask2bbox(instances.masks.bool()).to(instances.bboxes)
    return boxed
