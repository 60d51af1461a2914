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
from pycocotools.coco import COCO

HOLDS, REFUTED, NOT_DECIDED, MISSING = "holds", "refuted", "not decided", "missing"
#: Of a difference that rests on one seed, although no more were planned: nothing tells how far it would move.
ONE_SEED = "not decided (one seed)"
#: Of a difference some of whose seeds are not measured yet; see :func:`judge`.
INCOMPLETE = "incomplete"


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
        planned: Seeds (pairs, where both have some in common) that the difference is to rest on.
    """

    network: Network
    records: Mapping[int, Record]
    missing: tuple[int, ...]
    interval: Interval | None
    deviation: float | None
    difference: Interval | None
    seed_differences: Mapping[int, float]
    planned: int = 0

    @property
    def verdict(self) -> str:
        """Of the difference to the baseline."""
        return judge(self.difference, self.planned)

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over seeds; None without results or where there are no such objects."""
        values = [record.metrics[metric] for record in self.records.values()]
        return statistics.mean(values) if values and min(values) >= 0 else None


@dataclass(frozen=True)
class Judgement:
    """A statement and what the numbers say: the interval of the difference, None where a result is missing.

    ``verdict`` is None for a statement that does not decide.
    """

    statement: Statement
    interval: Interval | None
    verdict: str | None


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
        gone: Records whose detections cannot be read, with the reason; they count as missing.
        replicates: Of the bootstrap.
        images: That were evaluated.
    """

    suite: Suite
    rows: tuple[Row, ...]
    claims: tuple[JudgedClaim, ...]
    failed: tuple[Record, ...]
    gone: Mapping[Key, str]
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
        DataError: the annotations are not there, or detectors were evaluated on different images or categories.
    """
    found = {
        row: {
            seed: records[Key(row, seed)]
            for seed in suite.entry_of(row).seeds
            if Key(row, seed) in records and records[Key(row, seed)].status == "ok"
        }
        for row in suite.networks
    }
    matches, gone = _match_all(found, root)
    found = {
        row: {seed: record for seed, record in own.items() if (row, seed) in matches}
        for row, own in found.items()
    }
    images = len(next(iter(matches.values())).image_ids) if matches else 0
    weights = image_weights(images, replicates, np.random.default_rng(0)) if images else None
    resampled = {
        row: replicate({seed: matches[row, seed] for seed in own}, weights)
        for row, own in found.items()
        if own
    }
    rows = tuple(_row(suite, row, found, resampled) for row in suite.networks)
    claims = tuple(_judge_claim(suite, claim, resampled) for claim in suite.claims)
    failed = tuple(
        record for key, record in records.items() if record.status == "failed" and key.row in suite.networks
    )
    return Summary(suite, rows, claims, failed, gone, replicates, images)


def _match_all(
    found: Mapping[str, Mapping[int, Record]], root: Path
) -> tuple[dict[tuple[str, int], ImageMatches], dict[Key, str]]:
    """What each record's detections match, and why those of others cannot be read."""
    matches, gone = {}, {}
    first, annotations = None, None
    for row, own in found.items():
        for seed, record in own.items():
            if first is None:
                first, annotations = record, _annotations(record)
            for what in ("annotations", "categories"):
                here, there = getattr(record, what), getattr(first, what)
                if here != there:
                    raise DataError(
                        f"{row} was evaluated on {what} {here} and {first.row} on {there}: not comparable."
                    )
            try:
                evaluation = coco_evaluation(
                    annotations, root / (record.detections or "?"), record.categories, areas=False
                )
            except DataError as error:
                gone[record.key] = str(error)
                continue
            matches[row, seed] = match_images(evaluation)
    return matches, gone


def _annotations(record: Record) -> COCO:
    try:
        return load_ground_truth(record.annotations)
    except OSError as error:
        raise DataError(
            f"annotations {record.annotations!r} of {record.row} cannot be read: {error}."
        ) from error


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
        difference=_difference(suite, row, network.baseline, resampled),
        seed_differences={
            seed: record.metrics["mAP"] - base[seed].metrics["mAP"]
            for seed, record in own.items()
            if seed in base
        },
        planned=_planned(suite, row, network.baseline) if network.baseline else 0,
    )


def _difference(
    suite: Suite, better: str, than: str | None, resampled: Mapping[str, Replicates]
) -> Interval | None:
    if than is None or better not in resampled or than not in resampled:
        return None
    # Where pairs are planned, runs of different seeds are no substitute.
    measured = set(resampled[better].values) & set(resampled[than].values)
    if _common(suite, better, than) and not measured:
        return None
    return difference_interval(resampled[better], resampled[than], _generator())


def _generator() -> np.random.Generator:
    """Of the draws of seeds: the same for every comparison."""
    return np.random.default_rng(1)


def _planned(suite: Suite, better: str, than: str) -> int:
    """Seeds that a difference is to rest on: the common ones; without any, those of the side with fewer."""
    fewer = min(len(suite.entry_of(row).seeds) for row in (better, than))
    return len(_common(suite, better, than)) or fewer


def _common(suite: Suite, better: str, than: str) -> set[int]:
    return set(suite.entry_of(better).seeds) & set(suite.entry_of(than).seeds)


def judge(interval: Interval | None, planned: int) -> str:
    """``holds`` where a difference's interval is above zero, ``refuted`` where below, else ``not decided``.

    ``incomplete (1 of 3 seeds)`` where it does not rest on all the ``planned`` seeds, ``missing`` where on none.
    """
    if interval is None:
        return MISSING
    if interval.seeds < planned:
        return f"{INCOMPLETE} ({interval.seeds} of {planned} seeds)"
    if interval.seeds == 1:
        return ONE_SEED
    if interval.low > 0:
        return HOLDS
    return REFUTED if interval.high < 0 else NOT_DECIDED


def _judge_claim(suite: Suite, claim: Claim, resampled: Mapping[str, Replicates]) -> JudgedClaim:
    judgements = []
    for statement in claim.statements:
        interval = _difference(suite, statement.better, statement.than, resampled)
        planned = _planned(suite, statement.better, statement.than)
        judgements.append(
            Judgement(statement, interval, judge(interval, planned) if statement.decides else None)
        )
    verdicts = [judgement.verdict for judgement in judgements if judgement.verdict is not None]
    # One statement that is wrong makes the whole wrong; all must hold for it to hold.
    order = (REFUTED, MISSING, INCOMPLETE, NOT_DECIDED, HOLDS)
    verdict = next(v for kind in order for v in verdicts if v.startswith(kind))
    return JudgedClaim(claim, tuple(judgements), verdict)
