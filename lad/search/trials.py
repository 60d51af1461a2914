"""One training of a search, in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lad.analysis.training_logs import last_error, read_scalars
from lad.base.processes import Processes
from lad.errors import DataError

LOG = "train.log"


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        error: Why it failed; None where it did not.
        stopped: Whether it was stopped before its end.
    """

    error: str | None = None
    stopped: bool = False


def train_command(config: Path, work_dir: Path) -> list[str]:
    """Command that trains a config, or resumes its training."""
    return [sys.executable, "-m", "lad", "train", str(config), "--work-dir", str(work_dir), "--resume"]


def evaluations(work_dir: Path, metric: str) -> dict[int, float]:
    """What a training's evaluations have given so far, by iteration; empty before the first.

    Raises:
        DataError: its evaluations do not give the metric.
    """
    try:
        curves = read_scalars(work_dir).curves
    except DataError:  # no logs yet
        return {}
    group = metric.split("/")[0] + "/"
    known = [name for name in curves if name.startswith(group)]
    if metric not in curves:
        if known:
            raise DataError(f"the evaluation gives no {metric!r}, but {', '.join(sorted(known))}.")
        return {}
    curve = curves[metric]
    return dict(zip(curve.iterations.tolist(), curve.values.tolist(), strict=True))


def train(
    config: Path,
    work_dir: Path,
    metric: str,
    processes: Processes,
    lock: int,
    evaluated: Callable[[int, float], bool],
    is_over: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train a config, or go on with its training, and report its evaluations as they come.

    Args:
        config: The training config.
        work_dir: Folder of the training.
        metric: Name of the metric, as in the logs.
        processes: Start the training, and stop it.
        lock: Of the folder, from :func:`lad.base.processes.locked`.
        evaluated: Told each evaluation's iteration and value, once; the training is stopped where it returns False.
        is_over: Whether the time given is used up; the training is stopped then.

    Raises:
        DataError: its evaluations do not give the metric.
    """
    seen: set[int] = set()
    stopped = False

    def go_on() -> bool:
        nonlocal stopped
        for iteration, value in evaluations(work_dir, metric).items():
            if iteration not in seen and not stopped:
                seen.add(iteration)
                stopped = not evaluated(iteration, value)
        stopped = stopped or is_over()
        return not stopped

    log = work_dir / LOG
    start = log.stat().st_size if log.is_file() else 0
    code = processes.run(train_command(config, work_dir), log, lock, go_on)
    if code == 0:
        stopped = False
        go_on()  # the last ones
        return Outcome()
    if processes.stopped or stopped:
        return Outcome(stopped=True)
    return Outcome(error=f"training ended with exit code {code}: {last_error(log, start)}")
