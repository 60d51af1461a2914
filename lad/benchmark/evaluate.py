"""From a run's detections to records."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache

import lad
from lad.benchmark import runs
from lad.benchmark.records import Record
from lad.benchmark.runs import ROOT, Run
from lad.benchmark.suite import Network
from lad.evaluation.detections import coco_evaluation, coco_metrics, load_ground_truth

import mmdet
import mmengine
import torch


def make_records(run: Run, digests: Mapping[str, str], error: str | None = None) -> list[Record]:
    """A record of each network of a finished run, or of what went wrong.

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
        versions=versions(),
    )
    if error is not None:
        return Record(**known, status="failed", error=error)
    plain = runs.plain_config(run, network)
    annotations, classes = runs.evaluated_annotations(plain)
    ground_truth = load_ground_truth(annotations)
    categories = tuple(ground_truth.getCatIds(catNms=classes))
    detections = runs.detections(run, network)
    return Record(
        **known,
        status="ok",
        metrics=coco_metrics(coco_evaluation(ground_truth, detections, categories)),
        seconds=runs.training_seconds(run.folder),
        parameters=runs.count_parameters(plain),
        detections=os.path.relpath(detections, run.root),
        annotations=annotations,
        categories=categories,
        checkpoint=os.path.relpath(run.checkpoint(network.name), run.root),
    )


@cache
def versions() -> dict[str, str]:
    """What the results were made with."""
    found = dict(
        python=platform.python_version(),
        torch=torch.__version__,
        mmdet=mmdet.__version__,
        mmengine=mmengine.__version__,
        lad=lad.__version__,
    )
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found["commit"] = done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        found["commit"] = "unknown"
    return found
