"""Results of a suite from its records: means, differences with their intervals, verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lad.evaluation.bootstrap import Interval, Replicates, difference_interval, mean_interval
from lad.evaluation.power import seeds_needed
from suites.records import Key, Record
from suites.resampling import REPLICATES, Resampled, resample
from suites.suite import Claim, Network, Statement, Suite

HOLDS, REFUTED, NOT_DECIDED, MISSING = "holds", "refuted", "not decided", "missing"
#: Of a difference that rests on one seed, although no more were planned: nothing tells how far it would move.
ONE_SEED = "not decided (one seed)"
#: Of a difference some of whose seeds are not measured yet.
INCOMPLETE = "incomplete"


@dataclass(frozen=True)
class Comparison:
    """Comparison of two detectors.

    Attributes:
        interval: Of the difference; None where one of the two has no result.
        measured: Seeds that it rests on: of both, or of each where none is planned for both.
        planned: Seeds that it is to rest on.
    """

    interval: Interval | None
    measured: int
    planned: int

    def seeds_needed(self, difference: float) -> int | None:
        """Number of seeds that a difference of this size needs (:func:`lad.evaluation.power.seeds_needed`).

        Raises:
            ValueError: it is not known how far seeds scatter (``scatter_is_known``).
        """
        if not self.scatter_is_known:
            raise ValueError(f"the scatter of {self.measured} seeds is not known.")
        own = self.interval
        return seeds_needed(difference, own.seed_deviation, own.image_deviation, own.image_seed_deviation)

    @property
    def scatter_is_known(self) -> bool:
        """Whether it rests on at least two seeds."""
        return self.interval is not None and self.interval.seed_deviation is not None

    @property
    def verdict(self) -> str:
        """``holds`` where the interval is above zero, ``refuted`` where below, else ``not decided``.

        ``incomplete (1 of 3 seeds)`` where it does not rest on all that are planned, ``missing`` where on none.
        """
        if self.interval is None:
            return MISSING
        if self.measured < self.planned:
            return f"{INCOMPLETE} ({self.measured} of {self.planned} seeds)"
        if self.interval.seeds == 1:
            return ONE_SEED
        if self.interval.low > 0:
            return HOLDS
        return REFUTED if self.interval.high < 0 else NOT_DECIDED


@dataclass(frozen=True)
class Row:
    """One detector of the table.

    Attributes:
        network: Which one.
        records: By seed, what was measured.
        missing: Seeds without a result.
        interval: Mean mAP; None without any result.
        deviation: Sample standard deviation of the mAP over seeds; None with fewer than two.
        comparison: With the baseline; None without one.
        seed_differences: To the baseline's run with the same seed.
    """

    network: Network
    records: Mapping[int, Record]
    missing: tuple[int, ...]
    interval: Interval | None
    deviation: float | None
    comparison: Comparison | None
    seed_differences: Mapping[int, float]

    @property
    def difference(self) -> Interval | None:
        """Difference to the baseline; None without one, or where one of the two has no result."""
        return self.comparison and self.comparison.interval

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over seeds; None without results, where it was not measured or there are no such objects."""
        values = [record.metrics.get(metric, -1.0) for record in self.records.values()]
        return statistics.mean(values) if values and min(values) >= 0 else None


@dataclass(frozen=True)
class Judgement:
    """A statement and what the numbers say."""

    statement: Statement
    comparison: Comparison

    @property
    def interval(self) -> Interval | None:
        """Of the difference; None where a result is missing."""
        return self.comparison.interval

    @property
    def verdict(self) -> str | None:
        """The comparison's; None for a statement that does not decide."""
        return self.comparison.verdict if self.statement.decides else None


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
        gone: Records whose detections cannot be read, or are others now, with the reason; they count as missing.
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


def summarise(
    suite: Suite, records: Mapping[Key, Record], root: Path, replicates: int = REPLICATES
) -> Summary:
    """Summarise the records of a suite.

    Draws are the same in every call, so a report is reproducible.

    Args:
        suite: What is compared.
        records: Of :func:`suites.records.read_records`, or with archived ones of :func:`suites.archive.with_archive`.
        root: Folder of the records, which paths of detections are relative to.
        replicates: Of the bootstrap.

    Raises:
        DataError: the annotations are not there, or detectors were evaluated on different images or categories.
    """
    measured = resample(successful(suite, records), root, replicates)
    rows = tuple(_row(suite, row, measured) for row in suite.networks)
    claims = tuple(_judge_claim(suite, claim, measured.replicates) for claim in suite.claims)
    failed = tuple(
        record for key, record in records.items() if record.status == "failed" and key.row in suite.networks
    )
    return Summary(suite, rows, claims, failed, measured.gone, replicates, measured.images)


def successful(suite: Suite, records: Mapping[Key, Record]) -> dict[str, dict[int, Record]]:
    """The records of a suite's successful runs, by row and seed."""
    return {
        row: {
            seed: records[Key(row, seed)]
            for seed in suite.entry_of(row).seeds
            if Key(row, seed) in records and records[Key(row, seed)].status == "ok"
        }
        for row in suite.networks
    }


def _row(suite: Suite, row: str, measured: Resampled) -> Row:
    network, own, resampled = suite.networks[row], measured.records[row], measured.replicates
    values = [record.metrics["mAP"] for record in own.values()]
    base = measured.records.get(network.baseline, {}) if network.baseline else {}
    return Row(
        network=network,
        records=own,
        missing=tuple(seed for seed in suite.entry_of(row).seeds if seed not in own),
        interval=mean_interval(resampled[row]) if own else None,
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        comparison=_compare(suite, row, network.baseline, resampled) if network.baseline else None,
        seed_differences={
            seed: record.metrics["mAP"] - base[seed].metrics["mAP"]
            for seed, record in own.items()
            if seed in base
        },
    )


def _compare(suite: Suite, better: str, than: str, resampled: Mapping[str, Replicates]) -> Comparison:
    planned = [set(suite.entry_of(row).seeds) for row in (better, than)]
    measured = [set(resampled[row].values) if row in resampled else set() for row in (better, than)]
    possible = all(measured)
    if set.intersection(*planned):
        # Where pairs are planned, runs of different seeds are no substitute.
        planned, measured = ([set.intersection(*both)] for both in (planned, measured))
        possible = bool(measured[0])
    return Comparison(
        interval=difference_interval(resampled[better], resampled[than]) if possible else None,
        measured=sum(map(len, measured)),
        planned=sum(map(len, planned)),
    )


def _judge_claim(suite: Suite, claim: Claim, resampled: Mapping[str, Replicates]) -> JudgedClaim:
    judgements = [
        Judgement(statement, _compare(suite, statement.better, statement.than, resampled))
        for statement in claim.statements
    ]
    verdicts = [judgement.verdict for judgement in judgements if judgement.verdict is not None]
    # One statement that is wrong makes the whole wrong; all must hold for it to hold.
    order = (REFUTED, MISSING, INCOMPLETE, NOT_DECIDED, HOLDS)
    verdict = next(v for kind in order for v in verdicts if v.startswith(kind))
    return JudgedClaim(claim, tuple(judgements), verdict)
