"""Read what MMEngine logs of a training: scalars by iteration, the time it took, how far a running one is.

``tools/train.py --work-dir WORK_DIR`` leaves ``WORK_DIR/TIMESTAMP/vis_data/scalars.json`` and
``WORK_DIR/TIMESTAMP/TIMESTAMP.log`` for each of its starts; a resumed run has several. Its standard output has the same
lines as the ``.log`` file, and the traceback of an error.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from lad.errors import DataError

import numpy as np
from mmengine.config import Config

# Keys of a line that locate it and are no logged scalars.
_POSITIONS = ("iter", "epoch", "step")
_TIME = re.compile(r"^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - ")
_STEP = re.compile(
    r"(?P<unit>Epoch|Iter)\(train\)\s+\[\s*(?P<now>\d+)(?:/(?P<total>\d+))?\](?:\[\s*(?P<step>\d+)/(?P<steps>\d+)\])?"
    r".*?eta: (?:(?P<days>\d+) days?, )?(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d)"
)
_ERROR = re.compile(r"^(error: |(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b)")
# Bytes at the end of an output that are searched for its last step or error.
_TAIL = 100_000


# -- Scalars -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Curve:
    """One logged scalar over a run.

    Attributes:
        iterations: ``(T,)``, ascending.
        values: ``(T,)``.
    """

    iterations: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class Scalars:
    """All scalars that a run logged.

    Attributes:
        name: Name of the work_dir.
        curves: Curves by MMEngine's names (``loss_cls``, ``coco/bbox_mAP``).
        iterations_per_epoch: None for a run that does not count epochs.
        predicts: Of several trained networks the one whose detections are evaluated, or ``'ensemble'``; else None.
    """

    name: str
    curves: dict[str, Curve]
    iterations_per_epoch: int | None
    predicts: str | None = None


def check_distinct(work_dirs: Sequence[str | os.PathLike[str]]) -> None:
    """Refuse a run that is named twice, by another path or a link too: it would count as two that agree.

    Raises:
        DataError: names both paths.
    """
    known: dict[Path, str] = {}
    for work_dir in work_dirs:
        name, place = str(work_dir), Path(work_dir).resolve()
        if place in known:
            raise DataError(f"{known[place]!r} and {name!r} are the same run: name it once.")
        known[place] = name


def read_runs(work_dirs: Sequence[str | os.PathLike[str]], *, predicts: bool = True) -> list[Scalars]:
    """Read the scalars of several runs, under names that differ.

    Where folders have the same name, as many parent folders are added as tell a run from every other:
    ``alone/seed_0`` and ``lad/seed_0``.

    Args:
        work_dirs: Their folders.
        predicts: See :func:`read_scalars`.

    Raises:
        DataError: see :func:`read_scalars`.
    """
    parts = [Path(os.path.abspath(work_dir)).parts for work_dir in work_dirs]
    return [
        replace(
            read_scalars(work_dir, predicts=predicts),
            name=_distinct_tail(own, [other for other in parts if other != own]),
        )
        for work_dir, own in zip(work_dirs, parts, strict=True)
    ]


def _distinct_tail(parts: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> str:
    count = 1
    while any(other[-count:] == parts[-count:] for other in others):
        count += 1
    return "/".join(parts[-count:])


def read_scalars(work_dir: str | os.PathLike[str], *, predicts: bool = True) -> Scalars:
    """Read ``TIMESTAMP/vis_data/scalars.json`` of every start of a run, and join them.

    Where starts overlap, the later one counts from its first iteration on: a run that is resumed from a checkpoint
    repeats what was lost. Starts without training (tests) are skipped, and so are lines that a crash cut off.

    Args:
        work_dir: Folder of the run.
        predicts: Whether the network whose detections are evaluated is read from the config beside the newest log;
            nothing else needs that file.

    Raises:
        DataError: there is no such folder, or there are no logs of a training in it; a line of theirs has a position
            that is no whole number; the config cannot be read.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise DataError(f"there is no work_dir {str(work_dir)!r}.")
    files = sorted(work_dir.glob("*/vis_data/scalars.json"), key=lambda path: path.parts[-3])
    starts = [lines for lines in map(_json_lines, files) if any("iter" in line for line in lines)]
    if not starts:
        reason = "TIMESTAMP/vis_data/scalars.json is missing" if not files else "its logs hold no training"
        raise DataError(
            f"{str(work_dir)!r} has no logs of a training: {reason}; give the work_dir of a training."
        )
    per_epoch = _iterations_per_epoch(line for lines in starts for line in lines)
    points: dict[str, dict[int, float]] = defaultdict(dict)
    for lines in starts:
        first = min(line["iter"] for line in lines if "iter" in line)
        for of_key in points.values():
            for iteration in [iteration for iteration in of_key if iteration >= first]:
                del of_key[iteration]
        for line in lines:
            iteration = _iteration(line, per_epoch)
            for key, value in line.items():
                if key not in _POSITIONS and isinstance(value, int | float):
                    points[key][iteration] = float(value)
    curves = {}
    for key, of_key in points.items():
        if of_key:
            iterations = np.array(sorted(of_key))
            curves[key] = Curve(iterations, np.array([of_key[iteration] for iteration in iterations]))
    return Scalars(
        work_dir.name or str(work_dir), curves, per_epoch, _evaluated_network(files) if predicts else None
    )


def _evaluated_network(files: Sequence[Path]) -> str | None:
    """Read from the config that MMEngine writes beside the newest log."""
    configs = [file.with_name("config.py") for file in files if file.with_name("config.py").is_file()]
    if not configs:
        return None
    try:
        # What the config imports is not needed to read it.
        model = Config.fromfile(configs[-1], import_custom_modules=False).get("model") or {}
        networks = model.get("networks") or {}
        return model.get("predict_with") or model.get("deploy") or next(iter(networks), None)
    except Exception as error:  # a config is a program
        raise DataError(
            f"{configs[-1]} cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]}): mend it, or "
            "take it away to do without the name of the network that predicts."
        ) from error


def _json_lines(file: Path) -> list[dict]:
    lines = []
    for number, text in enumerate(file.read_text(errors="replace").splitlines(), 1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict):
            lines.append({**line, **_positions(line, f"{file}, line {number}")})
    return lines


def _positions(line: dict, where: str) -> dict[str, int]:
    """Iteration, epoch and step of a line, those that it has."""
    positions = {}
    for key in _POSITIONS:
        value = line.get(key, 0)
        if not isinstance(value, int | float) or isinstance(value, bool) or value % 1 or value < 0:
            raise DataError(
                f"{where}: {key} must be a whole number, got {value!r:.60}; mend or delete the line."
            )
        if key in line:
            positions[key] = int(value)
    return positions


def _iterations_per_epoch(lines: Iterable[dict]) -> int | None:
    """Estimate from lines that have both; the last iteration of an epoch need not have been logged."""
    shares = [line["iter"] / line["epoch"] for line in lines if line.get("epoch") and "iter" in line]
    return math.ceil(max(shares)) if shares else None


def _iteration(line: dict, per_epoch: int | None) -> int:
    if "iter" in line:
        return line["iter"]
    step = line.get("step", 0)
    # A metric's step is the epoch where epochs are counted; that of other scalars is the iteration.
    is_metric = any("/" in key and not key.startswith("role_switch/") for key in line)
    return step * per_epoch if is_metric and per_epoch else step


# -- Text --------------------------------------------------------------------------------------------------------------


def training_seconds(work_dir: Path) -> float | None:
    """Sum over a run's logs of the seconds from the start to the last step or checkpoint; None without logs."""
    spans = []
    for log in work_dir.glob("*/*.log"):
        stamps: list[datetime] = []
        for line in log.read_text(errors="replace").splitlines():
            found = _TIME.match(line)
            if found and (not stamps or "(train)" in line or "Saving checkpoint" in line):
                stamps.append(datetime.strptime(found[1], "%Y/%m/%d %H:%M:%S"))
        if stamps:
            spans.append((max(stamps) - stamps[0]).total_seconds())
    return sum(spans) if spans else None


@dataclass(frozen=True)
class Progress:
    """Progress of a training.

    Attributes:
        text: ``epoch 3 [20/26]`` or ``iteration 200/9000``.
        left: Remaining seconds, as MMEngine estimates them.
    """

    text: str
    left: float


def read_progress(output: Path, start: int = 0) -> Progress | None:
    """Read the last step from a training's output; None before the first.

    Args:
        output: File of the output; a training that is started again appends to it.
        start: Offset of the current start's output, in bytes.
    """
    steps = list(_STEP.finditer(_tail(output, start)))
    if not steps:
        return None
    last = steps[-1]
    if last["unit"] == "Epoch":
        text = f"epoch {last['now']} [{last['step']}/{last['steps']}]"
    else:
        text = f"iteration {last['now']}/{last['total']}"
    left = int(last["hours"]) * 3600 + int(last["minutes"]) * 60 + int(last["seconds"])
    return Progress(text, left + 86400 * int(last["days"] or 0))


def last_error(output: Path, start: int = 0) -> str:
    """The last line of an output, from byte ``start`` on, that names an error; else its last line."""
    lines = [line.strip() for line in _tail(output, start).splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    return (errors or lines or ["no output"])[-1].removeprefix("error: ")


def _tail(output: Path, start: int) -> str:
    if not output.is_file():
        return ""
    with open(output, "rb") as file:
        file.seek(0, 2)
        file.seek(max(start, file.tell() - _TAIL))
        return file.read().decode(errors="replace")
