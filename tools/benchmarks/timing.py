"""Comparing code in one run: alternating repeats, and the ratio pair by pair."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """Ratio of two durations, over repeats made in turn.

    Attributes:
        values: One ratio a repeat.
        slow, fast: Median seconds of each.
    """

    values: tuple[float, ...]
    slow: float
    fast: float

    def __str__(self) -> str:
        return f"{statistics.median(self.values):6.2f}x ({min(self.values):.2f} to {max(self.values):.2f})"


def alternate(
    tasks: dict[str, Callable[[], object]],
    repeats: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every task in every repeat; the tasks run in turn, so that a drifting machine hurts all alike.

    Args:
        tasks: By name.
        repeats: How often each is timed.
        warmup: How often each runs before.
        clock: ``time.process_time`` counts the CPU time of this process, which other processes disturb less.
    """
    for _ in range(warmup):
        for task in tasks.values():
            task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            start = clock()
            task()
            seconds[name].append(clock() - start)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> Ratio:
    """Compare two lists of :func:`alternate`."""
    return Ratio(
        values=tuple(a / b for a, b in zip(slow, fast, strict=True)),
        slow=statistics.median(slow),
        fast=statistics.median(fast),
    )
