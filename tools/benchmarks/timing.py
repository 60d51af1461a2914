"""Comparing code in one run: alternating repeats, and the ratio pair by pair."""

from __future__ import annotations

import ctypes
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

#: Parameters of glibc's mallopt(3): M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD, in bytes.
KEEP_MEMORY = {-3: 2**30, -1: 2**31 - 1, -2: 2**28}


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


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, as PyTorch's allocators of other devices do.

    By default glibc gives large blocks back to the system, and a step that holds more tensors at once than the steps
    it is compared with pays for each page of them anew.

    Raises:
        SystemExit: the C library is another one, or refuses.
    """
    if platform.libc_ver()[0] != "glibc":
        raise SystemExit("--keep-memory is for glibc alone; leave it out.")
    library = ctypes.CDLL(None)
    for parameter, size in KEEP_MEMORY.items():
        if not library.mallopt(parameter, size):
            raise SystemExit(f"--keep-memory: mallopt({parameter}, {size}) was refused; leave it out.")
