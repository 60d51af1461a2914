"""What the records of a suite say: means, differences with their intervals, verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lad.benchmark.records import Key, Record
from lad.benchmark.suite import Claim, Network, Statement, Suite
from lad.errors import DataError
from lad.evaluation.bootstrap import (
    ImageMatches,
    Interval,
    Replicates,
    difference_interval,
    image_weights,
    match_images,
    mean_interval,
    replicate,
)
from lad.evaluation.detections import coco_evaluation, load_ground_truth

import numpy as np

HOLDS, REFUTED, NOT_DECIDED, MISSING = "holds", "refuted", "not decided", "missing"


@dataclass(frozen=True)
class Row:
    """One detector of the table.

    Attributes:
        network: Which one.
        records: By seed, what was measured.
        missing: Seeds without a result.
        interval: Mean mAP; None without any result.
        deviation: Sample standard deviation of the mAP over seeds; None with fewer than two.
        difference: To the baseline; None without one, or where one of the two has no result.
        seed_differences: To the baseline's run with the same seed.
    """

    network: Network
    records: Mapping[int, Record]
    missing: tuple[int, ...]
    interval: Interval | None
    deviation: float | None
    difference: Interval | None
    seed_differences: Mapping[int, float]

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over seeds; None without results or where there are no such objects."""
        values = [record.metrics[metric] for record in self.records.values()]
        return statistics.mean(values) if values and min(values) >= 0 else None


@dataclass(frozen=True)
class Judgement:
    """A statement and what the numbers say: the interval of the difference, None where a result is missing."""

    statement: Statement
    interval: Interval | None
    verdict: str


@dataclass(frozen=True)
class JudgedClaim:
    """A claim, its statements' judgements, and the verdict of all together."""

    claim: Claim
    judgements: tuple[Judgement, ...]
    verdict: str


@dataclass(frozen=True)
class Summary:
    """A suite's results.

    Attributes:
        suite: The suite.
        rows: In its order.
        claims: In its order.
        failed: Runs whose training failed last time.
        replicates: Of the bootstrap.
        images: That were evaluated.
    """

    suite: Suite
    rows: tuple[Row, ...]
    claims: tuple[JudgedClaim, ...]
    failed: tuple[Record, ...]
    replicates: int
    images: int


def summarise(suite: Suite, records: Mapping[Key, Record], root: Path, replicates: int = 1000) -> Summary:
    """Compare what is recorded.

    Draws are the same in every call, so a report is reproducible.

    Args:
        suite: What is compared.
        records: Of :func:`lad.benchmark.records.read_records`.
        root: Folder of the records, which paths of detections are relative to.
        replicates: Of the bootstrap.

    Raises:
        DataError: detections are missing, or detectors were evaluated on different images.
    """
    found = {
        row: {
            seed: records[Key(row, seed)]
            for seed in suite.entry_of(row).seeds
            if Key(row, seed) in records and records[Key(row, seed)].status == "ok"
        }
        for row in suite.networks
    }
    matches = _match_all(found, root)
    images = len(next(iter(matches.values())).image_ids) if matches else 0
    weights = image_weights(images, replicates, np.random.default_rng(0)) if images else None
    resampled = {
        row: replicate({seed: matches[row, seed] for seed in own}, weights)
        for row, own in found.items()
        if own
    }
    rows = tuple(_row(suite, row, found, resampled) for row in suite.networks)
    claims = tuple(_judge_claim(claim, resampled) for claim in suite.claims)
    failed = tuple(
        record for key, record in records.items() if record.status == "failed" and key.row in suite.networks
    )
    return Summary(suite, rows, claims, failed, replicates, images)


def _match_all(found: Mapping[str, Mapping[int, Record]], root: Path) -> dict[tuple[str, int], ImageMatches]:
    matches, annotations = {}, {}
    for row, own in found.items():
        for seed, record in own.items():
            if record.annotations not in annotations:
                annotations[record.annotations] = load_ground_truth(record.annotations)
            if len(annotations) > 1:
                raise DataError(
                    f"{row} was evaluated on {record.annotations} and others elsewhere: not comparable."
                )
            evaluation = coco_evaluation(
                annotations[record.annotations], root / record.detections, record.categories, areas=False
            )
            matches[row, seed] = match_images(evaluation)
    return matches


def _row(
    suite: Suite, row: str, found: Mapping[str, Mapping[int, Record]], resampled: Mapping[str, Replicates]
) -> Row:
    network, own = suite.networks[row], found[row]
    values = [record.metrics["mAP"] for record in own.values()]
    base = found.get(network.baseline, {}) if network.baseline else {}
    return Row(
        network=network,
        records=own,
        missing=tuple(seed for seed in suite.entry_of(row).seeds if seed not in own),
        interval=mean_interval(resampled[row], _generator()) if own else None,
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        difference=_difference(row, network.baseline, resampled),
        seed_differences={
            seed: record.metrics["mAP"] - base[seed].metrics["mAP"]
            for seed, record in own.items()
            if seed in base
        },
    )


def _difference(better: str, than: str | None, resampled: Mapping[str, Replicates]) -> Interval | None:
    if than is None or better not in resampled or than not in resampled:
        return None
    return difference_interval(resampled[better], resampled[than], _generator())


def _generator() -> np.random.Generator:
    """Of the draws of seeds: the same for every comparison."""
    return np.random.default_rng(1)


def judge(interval: Interval | None) -> str:
    """``holds`` where a difference's interval is above zero, ``refuted`` where below, else ``not decided``."""
    if interval is None:
        return MISSING
    if interval.low > 0:
        return HOLDS
    return REFUTED if interval.high < 0 else NOT_DECIDED


def _judge_claim(claim: Claim, resampled: Mapping[str, Replicates]) -> JudgedClaim:
    judgements = []
    for statement in claim.statements:
        interval = _difference(statement.better, statement.than, resampled)
        judgements.append(Judgement(statement, interval, judge(interval)))
    verdicts = {judgement.verdict for judgement in judgements}
    # One statement that is wrong makes the whole wrong; all must hold for it to hold.
    verdict = next(v for v in (REFUTED, MISSING, NOT_DECIDED, HOLDS) if v in verdicts)
    return JudgedClaim(claim, tuple(judgements), verdict)
