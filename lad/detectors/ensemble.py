"""Predictions of several networks as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lad.errors import UnsupportedError
from lad.networks.mask_boxes import with_boxes

from mmcv.ops import batched_nms
from mmdet.models.detectors import BaseDetector
from mmdet.structures import SampleList
from mmengine.structures import InstanceData
from torch import Tensor

ENSEMBLE = "ensemble"
#: The fields of predicted instances that are merged; some heads add others of their own.
FIELDS = ("bboxes", "scores", "labels", "masks")


def predict_together(
    networks: Mapping[str, BaseDetector],
    inputs: Mapping[str, Tensor],
    data_samples: SampleList,
    **kwargs: Any,
) -> SampleList:
    """Detections of several networks, merged image by image by non-maximum suppression.

    Args:
        networks: The networks by name; the first one's ``test_cfg`` has the settings of the suppression.
        inputs: Images (N, C, H, W) as each network's config normalises them.
        data_samples: Their metadata; takes the detections.
        kwargs: As for the networks' ``predict``.
    """
    results = []
    for name, network in networks.items():
        samples = network.predict(inputs[name], data_samples, **kwargs)
        results.append([with_boxes(sample.pred_instances) for sample in samples])
    settings = merge_settings(next(iter(networks.values())))
    for sample, *instances in zip(data_samples, *results, strict=True):
        # YOLOX sets no limit.
        sample.pred_instances = merge(instances, settings["nms"], settings.get("max_per_img", -1))
    return data_samples


def merge_settings(network: BaseDetector) -> dict:
    """The part of a detector's ``test_cfg`` that has the settings of its last non-maximum suppression.

    Raises:
        UnsupportedError: it has none.
    """
    settings = network.test_cfg or {}
    settings = settings.get("rcnn") or settings
    if "nms" not in settings:
        raise UnsupportedError(
            f"predict_with='ensemble' merges detections by the non-maximum suppression of the first network, and "
            f"{type(network).__name__} has none in its test_cfg; put another network first."
        )
    return settings


def merge(instances: Sequence[InstanceData], nms: dict, max_per_img: int) -> InstanceData:
    """Detections of several networks on one image, without what overlaps a better one of its class.

    Args:
        instances: Each network's, with ``bboxes``, ``scores`` and ``labels``, and possibly ``masks``. Masks are left
            out where not all have them, other fields in any case.
        nms: Settings of the non-maximum suppression.
        max_per_img: How many are kept; -1 for all.
    """
    fields = [name for name in FIELDS if all(name in own for own in instances)]
    together = InstanceData.cat([InstanceData(**{name: own[name] for name in fields}) for own in instances])
    if len(together) == 0:
        return together
    scored, keep = batched_nms(together.bboxes, together.scores, together.labels, nms)
    count = len(keep) if max_per_img < 0 else max_per_img
    together = together[keep[:count]]
    together.scores = scored[:count, -1]
    return together
