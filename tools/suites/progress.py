"""Estimate how long a suite still takes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence


def time_left(
    waiting: Sequence[str],
    running: Sequence[tuple[str, float | None]],
    spent: Mapping[str, Sequence[float]],
    jobs: int,
) -> float | None:
    """Estimate the seconds until a suite is finished; None while nothing is known.

    Args:
        waiting: The entry of every run that has not begun.
        running: The entry of every running training and its remaining seconds, None where they are unknown.
        spent: Seconds that the finished runs of each entry took; entries without any take the mean of the others.
        jobs: Number of parallel runs.
    """
    known = {entry: statistics.mean(seconds) for entry, seconds in spent.items() if seconds}
    if not waiting and all(left is not None for _, left in running):
        return max((left for _, left in running), default=0.0)
    if not known:
        return None
    typical = statistics.mean(known.values())
    each = [known.get(entry, typical) for entry in waiting]
    each += [known.get(entry, typical) if left is None else left for entry, left in running]
    # The longest run is a lower bound for any number of jobs.
    return max(sum(each) / min(jobs, len(each)), *each)
