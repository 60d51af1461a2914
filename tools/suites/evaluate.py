"""Evaluate the detections of a run and make its records."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lad.analysis.training_logs import training_seconds
from lad.evaluation.detections import coco_evaluation, coco_metrics, load_ground_truth
from lad.evaluation.frequencies import parse_frequencies, precision_by_frequency, read_class_counts
from suites import runs
from suites.records import FORMAT, Record, evaluated_files
from suites.runs import Run
from suites.suite import Network

from pycocotools.coco import COCO


def make_records(run: Run, digests: Mapping[str, str], error: str | None = None) -> list[Record]:
    """Make the records of a finished run's networks, or of its failure.

    Args:
        run: The run.
        digests: Of each network's result, by the network's name.
        error: What went wrong.
    """
    return [_record(run, network, digests[network.name], error) for network in run.entry.networks]


def _record(run: Run, network: Network, digest: str, error: str | None) -> Record:
    known = dict(
        suite=run.suite.name,
        entry=run.entry.name,
        network=network.name,
        seed=run.seed,
        row=network.row,
        config=run.entry.config,
        digest=digest,
        trained_with=runs.trained_with(run),
        format=FORMAT,
    )
    if error is not None:
        return Record(**known, status="failed", error=error)
    plain = runs.plain_config(run, network)
    annotations, classes = runs.evaluated_annotations(plain)
    detections = runs.detections(run, network)
    # Before they are read: what is written meanwhile is seen next time.
    contents = evaluated_files(detections, annotations)
    ground_truth = load_ground_truth(annotations)
    categories = tuple(ground_truth.getCatIds(catNms=classes))
    return Record(
        **known,
        status="ok",
        metrics=metrics_of(plain.test_evaluator, ground_truth, detections, categories),
        seconds=training_seconds(run.folder),
        parameters=runs.count_parameters(plain),
        detections=os.path.relpath(detections, run.root),
        annotations=annotations,
        categories=categories,
        checkpoint=os.path.relpath(run.checkpoint(network.name), run.root),
        sha256=contents,
    )


def metrics_of(
    evaluator: Mapping, ground_truth: COCO, detections: str | Path, categories: Sequence[int]
) -> dict[str, float]:
    """The metrics of detections; of an evaluator with ``frequencies`` also ``AP_rare``, ``AP_common``, ``AP_frequent``.

    Args:
        evaluator: Config of the metric.
        ground_truth: The annotations.
        detections: JSON file of COCO results.
        categories: Category ids to evaluate.
    """
    evaluation = coco_evaluation(ground_truth, detections, categories)
    metrics = coco_metrics(evaluation)
    frequencies = parse_frequencies(evaluator.get("frequencies"))
    if frequencies is None:
        return metrics
    path, bounds = frequencies
    names = [category["name"] for category in ground_truth.loadCats(evaluation.params.catIds)]
    found = precision_by_frequency(evaluation.eval["precision"], names, read_class_counts(path), bounds)
    return metrics | {f"AP_{frequency}": value for frequency, value in found.items()}
