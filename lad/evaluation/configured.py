"""Evaluators as configs describe them: the annotation files with which they compare detections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lad.datasets.configured import is_local
from lad.errors import ConfigError
from lad.evaluation.coco import CocoMetric as OwnCocoMetric

from mmdet.evaluation import CocoMetric, DumpDetResults, MultiDatasetsEvaluator
from mmdet.registry import METRICS
from mmengine.registry import EVALUATOR

#: Metrics of ``CocoMetric`` that do not look at classes.
CLASS_AGNOSTIC = frozenset({"proposal", "proposal_fast"})


@dataclass(frozen=True)
class EvaluatedFile:
    """Annotation file of a COCO metric of a config.

    Attributes:
        path: The file.
        format_only: Whether detections are only written and not compared with annotations.
        masks: Whether masks are evaluated.
        class_agnostic: Whether classes make no difference, as for proposals.
        sort_categories: Whether the metric sorts the file's categories by their ids.
        part: Which of several concatenated data sets it evaluates; None for all of them.
    """

    path: Path
    format_only: bool = False
    masks: bool = False
    class_agnostic: bool = False
    sort_categories: bool = False
    part: int | None = None


def metrics_of(evaluator: Any, where: str = "val_evaluator") -> Iterator[dict]:
    """The metric configs of an evaluator config: of a dict, a list, or the ``metrics`` of an evaluator.

    Raises:
        ConfigError: it is something else.
    """
    if evaluator is None:
        return
    if isinstance(evaluator, (list, tuple)):
        for one in evaluator:
            yield from metrics_of(one, where)
    elif not isinstance(evaluator, dict):
        raise ConfigError(
            f"{where} must be a dict or a list of dicts, got {type(evaluator).__name__}: dict(type='CocoMetric', ...)."
        )
    elif "metrics" in evaluator:
        yield from metrics_of(evaluator["metrics"], where)
    else:
        yield evaluator


def evaluates_parts(evaluator: Any) -> bool:
    """Whether an evaluator config has a metric for each of several concatenated data sets."""
    kind: Any = evaluator.get("type") if isinstance(evaluator, dict) else None
    kind = EVALUATOR.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, MultiDatasetsEvaluator)


def metric_type(metric: dict) -> Any:
    """Class of a metric config; None if it is not registered."""
    kind: Any = metric.get("type")
    kind = METRICS.get(kind) if isinstance(kind, str) else kind
    return kind if isinstance(kind, type) else None


def is_coco_metric(metric: dict) -> bool:
    """Whether a metric evaluates COCO files as ``CocoMetric`` does; LVIS's has an evaluation of its own."""
    kind = metric_type(metric)
    known = (CocoMetric.compute_metrics, OwnCocoMetric.compute_metrics)
    return kind is not None and issubclass(kind, CocoMetric) and kind.compute_metrics in known


def evaluated_files(evaluator: Any, where: str = "val_evaluator") -> Iterator[EvaluatedFile]:
    """The local annotation files of the COCO metrics of an evaluator config.

    Raises:
        ConfigError: a setting has a wrong type.
    """
    in_parts = evaluates_parts(evaluator)
    for number, metric in enumerate(metrics_of(evaluator, where)):
        name = metric.get("ann_file")
        if not is_coco_metric(metric) or not name:
            continue
        if not isinstance(name, str):
            raise ConfigError(f"{where}: ann_file must be a path, got {name!r:.60}.")
        kinds = metric.get("metric", "bbox")
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not isinstance(kinds, (list, tuple)) or not all(isinstance(kind, str) for kind in kinds):
            raise ConfigError(
                f"{where}: metric must be a name such as 'bbox', or a list of names, got {kinds!r:.60}."
            )
        if is_local(name, metric.get("backend_args"), where):
            yield EvaluatedFile(
                Path(name),
                format_only=bool(metric.get("format_only")),
                masks="segm" in kinds,
                class_agnostic=set(kinds) <= CLASS_AGNOSTIC,
                sort_categories=bool(metric.get("sort_categories")),
                part=number if in_parts else None,
            )


def needs_annotations(evaluator: Any) -> bool:
    """Whether any metric of an evaluator config compares detections with annotations."""
    for metric in metrics_of(evaluator):
        kind = metric_type(metric)
        writes = metric.get("format_only") or (kind is not None and issubclass(kind, DumpDetResults))
        if not writes:
            return True
    return False


def needs_instances(evaluator: Any) -> bool:
    """Whether a COCO metric of an evaluator config has no file and takes the annotations from the batches."""
    return any(
        is_coco_metric(metric) and not metric.get("ann_file") and not metric.get("format_only")
        for metric in metrics_of(evaluator)
    )
