"""Means of logged scalars over the end of trainings, and their scatter over runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lad.analysis.training_logs import Scalars
from lad.errors import DataError


@dataclass(frozen=True)
class LastValue:
    """A scalar at the end of several runs.

    Attributes:
        key: MMEngine's name.
        runs: Number of runs that logged it in their last epochs.
        mean: Over these runs; None without one.
        deviation: Sample standard deviation over the runs; None with fewer than two.
    """

    key: str
    runs: int
    mean: float | None
    deviation: float | None


def last_values(runs: Sequence[Scalars], keys: Sequence[str], epochs: int = 1) -> list[LastValue]:
    """Average scalars over the last epochs of each run, then over runs.

    Args:
        runs: Logged scalars of each run.
        keys: Names of scalars.
        epochs: How many epochs of each run count.

    Raises:
        DataError: a run does not count epochs.
    """
    found = []
    for key in keys:
        means = [mean for run in runs if (mean := _mean_at_end(run, key, epochs)) is not None]
        found.append(
            LastValue(
                key,
                len(means),
                statistics.mean(means) if means else None,
                statistics.stdev(means) if len(means) > 1 else None,
            )
        )
    return found


def _mean_at_end(run: Scalars, key: str, epochs: int) -> float | None:
    """Mean of what a run logged in its last epochs; None where that is nothing."""
    if run.iterations_per_epoch is None:
        raise DataError(f"{run.name} does not count epochs: there is no last one of which to take the mean.")
    if key not in run.curves:
        return None
    end = max(curve.iterations[-1] for curve in run.curves.values())
    # The last of an epoch's iterations need not have been logged.
    finished = -(-end // run.iterations_per_epoch) * run.iterations_per_epoch
    curve = run.curves[key]
    values = curve.values[curve.iterations > finished - epochs * run.iterations_per_epoch]
    return float(values.mean()) if len(values) else None
