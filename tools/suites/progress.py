"""How far a training is, from its log, and how long a suite still takes."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STEP = re.compile(
    r"(?P<unit>Epoch|Iter)\(train\)\s+\[\s*(?P<now>\d+)(?:/(?P<total>\d+))?\](?:\[\s*(?P<step>\d+)/(?P<steps>\d+)\])?"
    r".*?eta: (?:(?P<days>\d+) days?, )?(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d)"
)
ERROR = re.compile(r"^(error: |(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b)")
TAIL = 100_000


@dataclass(frozen=True)
class Progress:
    """Where a training is.

    Attributes:
        text: ``epoch 3 [20/26]`` or ``iteration 200/9000``.
        left: Seconds that it still takes, as MMEngine estimates.
    """

    text: str
    left: float


def read_progress(log: Path, start: int = 0) -> Progress | None:
    """The last step that a training's output tells of; None before the first.

    Args:
        log: The output; a training that is started again adds to it.
        start: Where in it the present training begins, in bytes.
    """
    steps = list(STEP.finditer(_tail(log, start)))
    if not steps:
        return None
    last = steps[-1]
    if last["unit"] == "Epoch":
        text = f"epoch {last['now']} [{last['step']}/{last['steps']}]"
    else:
        text = f"iteration {last['now']}/{last['total']}"
    left = int(last["hours"]) * 3600 + int(last["minutes"]) * 60 + int(last["seconds"])
    return Progress(text, left + 86400 * int(last["days"] or 0))


def last_error(log: Path, start: int = 0) -> str:
    """The last line of an output, from byte ``start`` on, that names an error; else its last line."""
    lines = [line.strip() for line in _tail(log, start).splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.match(line)]
    return (errors or lines or ["no output"])[-1].removeprefix("error: ")


def time_left(
    waiting: Sequence[str],
    running: Sequence[tuple[str, float | None]],
    spent: Mapping[str, Sequence[float]],
    jobs: int,
) -> float | None:
    """Seconds until a suite is finished; None while nothing is known.

    Args:
        waiting: The entry of every run that has not begun.
        running: The entry of every run that is under way and the seconds it has left; None for those that do not know.
        spent: Seconds that the finished runs of each entry took; an entry without takes the others' mean.
        jobs: Runs at a time.
    """
    known = {entry: statistics.mean(seconds) for entry, seconds in spent.items() if seconds}
    if not waiting and all(left is not None for _, left in running):
        return max((left for _, left in running), default=0.0)
    if not known:
        return None
    typical = statistics.mean(known.values())
    each = [known.get(entry, typical) for entry in waiting]
    each += [known.get(entry, typical) if left is None else left for entry, left in running]
    # No number of jobs makes the longest of them shorter.
    return max(sum(each) / min(jobs, len(each)), *each)


def clock(seconds: float | None) -> str:
    """``1:02:03`` or ``2:03``; ``?`` for None."""
    if seconds is None:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _tail(log: Path, start: int) -> str:
    if not log.is_file():
        return ""
    with open(log, "rb") as file:
        file.seek(0, 2)
        file.seek(max(start, file.tell() - TAIL))
        return file.read().decode(errors="replace")
