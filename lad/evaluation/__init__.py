"""Evaluation of detections."""

from lad.evaluation.coco import CocoMetric, faster_evaluator

__all__ = ["CocoMetric", "faster_evaluator"]
