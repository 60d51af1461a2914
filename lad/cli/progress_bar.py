"""A progress bar that leaves a line of its own to errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmengine.utils import ProgressBar


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr that appears with the first item that is done, and whose line is ended in any case.

    Args:
        total: Number of items.

    Yields:
        What is called with the number of further items that are done.
    """
    bar: ProgressBar | None = None

    def update(count: int) -> None:
        nonlocal bar
        if bar is None:
            bar = ProgressBar(total, file=sys.stderr)
        bar.update(count)

    try:
        yield update
    finally:
        if bar is not None:
            print(file=sys.stderr)
