"""Evaluation of detections."""

from lad.evaluation.coco import CocoMetric, faster_evaluator
from lad.evaluation.lvis import LVISMetric

__all__ = ["CocoMetric", "LVISMetric", "faster_evaluator"]
