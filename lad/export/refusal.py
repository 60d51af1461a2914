"""Detectors that cannot be exported, each with its reason in one line."""

from __future__ import annotations

from lad.errors import UnsupportedError
from lad.export.nms import check_nms
from lad.networks.channels import COLOUR, image_channels

from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.dense_heads import (
    ATSSHead,
    DDODHead,
    FCOSHead,
    GFLHead,
    PAAHead,
    RetinaHead,
    RPNHead,
    RTMDetHead,
    TOODHead,
    VFNetHead,
    YOLOXHead,
)
from mmdet.models.detectors import BaseDetector, SingleStageDetector, TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from torch import nn

#: One-stage heads whose outputs were compared with MMDetection's.
HEADS = (
    ATSSHead,
    DDODHead,
    FCOSHead,
    GFLHead,
    PAAHead,
    RetinaHead,
    RTMDetHead,
    TOODHead,
    YOLOXHead,
)
OTHER_WAY = "onedl-mmdeploy exports more kinds of detectors"


def check_exportable(detector: BaseDetector) -> None:
    """Refuse a detector that the export does not cover.

    Raises:
        UnsupportedError: names the part and the reason.
    """
    reason = _reason(detector)
    if reason is not None:
        raise UnsupportedError(f"{type(detector).__name__} cannot be exported: {reason}; {OTHER_WAY}.")
    for name in ("bbox_head", "rpn_head", "roi_head"):
        part = getattr(detector, name, None)
        if part is not None:
            check_nms(part.test_cfg.get("nms") or {}, f"{name}.test_cfg.nms")
    channels = image_channels(detector)
    if channels != COLOUR:
        raise UnsupportedError(
            f"{type(detector).__name__} takes images of {channels} channels: only detectors on colour images are "
            f"exported; {OTHER_WAY}."
        )


def _reason(detector: BaseDetector) -> str | None:
    """Why a detector is not exported; None if it is."""
    if type(detector.data_preprocessor) is not DetDataPreprocessor:
        return f"its data preprocessor is a {type(detector.data_preprocessor).__name__}, not a DetDataPreprocessor"
    if getattr(detector, "mask_head", None) is not None:
        return "it predicts masks"
    if isinstance(detector, TwoStageDetector):
        return _reason_of_two_stage(detector)
    if not isinstance(detector, SingleStageDetector):
        return "it is neither a one-stage detector nor a Faster R-CNN"
    return _reason_of_head(detector.bbox_head)


def _reason_of_head(head: nn.Module) -> str | None:
    if getattr(head, "predict_box_type", "box") != "box":
        return "it predicts rotated or other special boxes"
    # VFNet is an ATSS head whose deformable convolutions fix the batch size when they are traced.
    if not isinstance(head, HEADS) or isinstance(head, VFNetHead) or _is_other_detector(head):
        return f"no decoding of a {type(head).__name__} is known to the export"
    return None


def _is_other_detector(head: nn.Module) -> bool:
    """Whether a subclass of a known head decodes or suppresses in its own way, as those with masks do."""
    family = max((kind for kind in HEADS if isinstance(head, kind)), key=lambda kind: len(kind.__mro__))
    methods = ("predict", "predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")
    return any(getattr(type(head), name, None) is not getattr(family, name, None) for name in methods)


def _reason_of_two_stage(detector: TwoStageDetector) -> str | None:
    rpn, roi_head = detector.rpn_head, detector.roi_head
    if type(rpn) is not RPNHead or not isinstance(rpn.prior_generator, AnchorGenerator):
        return f"its proposals come from a {type(rpn).__name__}, not an RPNHead"
    if getattr(roi_head, "with_mask", False):
        return "it predicts masks"
    if type(roi_head).predict_bbox is not StandardRoIHead.predict_bbox or type(
        roi_head
    )._bbox_forward is not (StandardRoIHead._bbox_forward):
        return f"its RoI head is a {type(roi_head).__name__}, not a StandardRoIHead"
    if getattr(roi_head, "with_shared_head", False):
        return "its RoI head has a shared head"
    if type(roi_head.bbox_roi_extractor) is not SingleRoIExtractor:
        return (
            f"its RoI extractor is a {type(roi_head.bbox_roi_extractor).__name__}, not a SingleRoIExtractor"
        )
    layer = roi_head.bbox_roi_extractor.roi_layers[0]
    if type(layer).__name__ != "RoIAlign" or getattr(layer, "pool_mode", "avg") != "avg":
        return f"its regions are pooled by {type(layer).__name__}, not RoIAlign"
    head = roi_head.bbox_head
    single = "_predict_by_feat_single"
    if not isinstance(head, BBoxHead) or getattr(type(head), single) is not getattr(BBoxHead, single):
        return f"no decoding of a {type(head).__name__} is known to the export"
    return None
