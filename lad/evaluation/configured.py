"""Evaluators as configs describe them: the annotation files with which they compare detections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS


@dataclass(frozen=True)
class EvaluatedFile:
    """Annotation file of a COCO metric of a config.

    Attributes:
        path: The file.
        format_only: Whether detections are only written and not compared with annotations.
        masks: Whether masks are evaluated.
    """

    path: Path
    format_only: bool
    masks: bool


def metrics_of(evaluator: Any) -> Iterator[dict]:
    """The metric configs of an evaluator config: of a dict, a list, or the ``metrics`` of an evaluator."""
    if isinstance(evaluator, (list, tuple)):
        for one in evaluator:
            yield from metrics_of(one)
    elif isinstance(evaluator, dict) and "metrics" in evaluator:
        yield from metrics_of(evaluator["metrics"])
    elif isinstance(evaluator, dict):
        yield evaluator


def is_coco_metric(metric: dict) -> bool:
    """Whether a metric config is a ``CocoMetric`` or derived from it."""
    kind: Any = metric.get("type")
    kind = METRICS.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, CocoMetric)


def evaluated_files(evaluator: Any) -> Iterator[EvaluatedFile]:
    """The local annotation files of the COCO metrics of an evaluator config."""
    for metric in metrics_of(evaluator):
        name = metric.get("ann_file")
        if not is_coco_metric(metric) or not isinstance(name, str) or not name:
            continue
        if "://" not in name and not metric.get("backend_args"):
            kinds = metric.get("metric", "bbox")
            masks = "segm" in ([kinds] if isinstance(kinds, str) else kinds)
            yield EvaluatedFile(Path(name), bool(metric.get("format_only")), masks)


def formats_only(evaluator: Any) -> bool:
    """Whether all metrics of an evaluator config only write detections, so that no annotations are needed."""
    metrics = list(metrics_of(evaluator))
    return bool(metrics) and all(metric.get("format_only") for metric in metrics)
