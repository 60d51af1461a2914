"""The order in which a suite's runs tell most, for a start that has not the time for all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lad.evaluation.power import half_width
from suites.results import HOLDS, REFUTED, Comparison, Summary
from suites.runs import Run

#: Standard deviation over seeds where no comparison has two of them yet.
USUAL_DEVIATION = 0.01
#: Of a run of whose entry none is finished, relative to the mean of the others.
USUAL_SECONDS = 1.0


@dataclass(frozen=True)
class _Pair:
    """Two rows to compare: names of their entries, and what is known of their difference."""

    entries: tuple[str, str]
    seeds: tuple[int, ...]
    deviation: float
    is_decided: bool


def informative_order(
    runs: Sequence[Run], summary: Summary, seconds: Mapping[str, float], done: Callable[[Run], bool]
) -> list[Run]:
    """Order runs by how much they narrow the suite's comparisons per second of training.

    A comparison is a claim's deciding statement or a row with its baseline. Pairs of seeds are taken one after another:
    first those of comparisons with fewer than two pairs, then those that narrow the interval of an undecided comparison
    most per second, then the others. A run comes after those that it needs.

    Args:
        runs: All runs of the suite that are planned, each after those that it needs.
        summary: What is measured so far.
        seconds: Mean training time of the entries that have one.
        done: Whether a run has its result.
    """
    by_place = {(run.entry.name, run.seed): run for run in runs}
    typical = statistics.mean(seconds.values()) if seconds else USUAL_SECONDS
    waiting = {run.name: run for run in runs if not done(run)}
    ordered: dict[str, Run] = {}

    def missing(pair: _Pair, seed: int) -> list[Run] | None:
        """Runs that a pair of a seed still takes; None where it is not planned."""
        both = [by_place.get((entry, seed)) for entry in pair.entries]
        if None in both:
            return None
        wanted: dict[str, Run] = {}
        for run in both:
            for one in _with_needs(run):
                if one.name in waiting and one.name not in ordered:
                    wanted[one.name] = one
        return list(wanted.values())

    pairs = _pairs(summary)
    while True:
        best: tuple[tuple[bool, bool, float], list[Run]] | None = None
        for pair in pairs:
            states = {seed: missing(pair, seed) for seed in pair.seeds}
            known = sum(state == [] for state in states.values())
            # The cheapest seed first: one of whose two runs may be there already.
            open_seeds = [state for state in states.values() if state]
            if not open_seeds:
                continue
            cheapest = min(open_seeds, key=lambda state: _cost(state, seconds, typical))
            gain = _narrowing(known, pair.deviation) / _cost(cheapest, seconds, typical)
            rank = (known < 2, not pair.is_decided, gain)
            if best is None or rank > best[0]:
                best = (rank, cheapest)
        if best is None:
            break
        ordered |= {run.name: run for run in best[1]}
    # Of rows that nothing is compared with.
    return [*ordered.values(), *(run for name, run in waiting.items() if name not in ordered)]


def _pairs(summary: Summary) -> list[_Pair]:
    suite = summary.suite
    found: dict[tuple[str, str], Comparison] = {}
    for claim in summary.claims:
        for judgement in claim.judgements:
            if judgement.statement.decides:
                found[judgement.statement.better, judgement.statement.than] = judgement.comparison
    for row in summary.rows:
        if row.comparison is not None and row.network.baseline is not None:
            found.setdefault((row.network.row, row.network.baseline), row.comparison)
    deviations = [one.interval.seed_deviation for one in found.values() if one.scatter_is_known]
    usual = statistics.median(deviations) if deviations else USUAL_DEVIATION
    return [
        _Pair(
            entries=(suite.entry_of(better).name, suite.entry_of(than).name),
            seeds=tuple(sorted({*suite.entry_of(better).seeds} & {*suite.entry_of(than).seeds})),
            deviation=comparison.interval.seed_deviation if comparison.scatter_is_known else usual,
            is_decided=_excludes_zero(comparison),
        )
        for (better, than), comparison in found.items()
    ]


def _excludes_zero(comparison: Comparison) -> bool:
    if comparison.interval is None or comparison.interval.seeds < 2:
        return comparison.verdict in (HOLDS, REFUTED)
    return comparison.interval.low > 0 or comparison.interval.high < 0


def _with_needs(run: Run) -> list[Run]:
    """A run after all that it needs."""
    return [one for need in run.needs.values() for one in _with_needs(need)] + [run]


def _cost(runs: Sequence[Run], seconds: Mapping[str, float], typical: float) -> float:
    return sum(max(seconds.get(run.entry.name, typical), 1e-6) for run in runs)


def _narrowing(seeds: int, deviation: float) -> float:
    """By how much one more pair narrows an interval, as far as it is the seeds'."""
    seeds = max(seeds, 2)
    return half_width(seeds, deviation, 0.0) - half_width(seeds + 1, deviation, 0.0)
