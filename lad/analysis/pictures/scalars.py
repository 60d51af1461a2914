"""What MMEngine logged in a work_dir, with the parts of a resumed run joined."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from lad.errors import DataError, nearest

import numpy as np
from mmengine.config import Config

# What a line says of its place, not of the training.
_PLACES = ("iter", "epoch", "step")


@dataclass(frozen=True, eq=False)
class Curve:
    """One logged number over a run.

    Attributes:
        iterations: ``(T,)``, ascending.
        values: ``(T,)``.
    """

    iterations: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class Scalars:
    """Everything that a run logged.

    Attributes:
        name: Of the work_dir.
        curves: By MMEngine's names (``loss_cls``, ``coco/bbox_mAP``).
        iterations_per_epoch: None for a run that does not count epochs.
        predicts: Of networks that learn together the one whose detections the metrics are of, or ``'ensemble'``.
    """

    name: str
    curves: dict[str, Curve]
    iterations_per_epoch: int | None
    predicts: str | None = None


def read_runs(work_dirs: Sequence[str | os.PathLike[str]]) -> list[Scalars]:
    """:func:`read_scalars` of several runs; of those in folders of one name the names are longer.

    ``alone/seed_0`` and ``lad/seed_0``: as many folders as tell a run from every other.
    """
    parts = [Path(os.path.abspath(work_dir)).parts for work_dir in work_dirs]
    return [
        replace(read_scalars(work_dir), name=_distinct_tail(own, [other for other in parts if other != own]))
        for work_dir, own in zip(work_dirs, parts, strict=True)
    ]


def _distinct_tail(parts: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> str:
    count = 1
    while any(other[-count:] == parts[-count:] for other in others):
        count += 1
    return "/".join(parts[-count:])


def read_scalars(work_dir: str | os.PathLike[str]) -> Scalars:
    """Read ``TIMESTAMP/vis_data/scalars.json`` of every part of a run, and join them.

    Of parts that overlap the later counts from its first iteration on: a run that goes on from a checkpoint repeats
    what was lost. Parts without training (tests) are passed over. Lines that a crash cut off too.

    Raises:
        DataError: there is no such folder, or there are no logs of a training in it.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise DataError(f"there is no work_dir {str(work_dir)!r}.")
    files = sorted(work_dir.glob("*/vis_data/scalars.json"), key=lambda path: path.parts[-3])
    parts = [lines for lines in map(_lines, files) if any("iter" in line for line in lines)]
    if not parts:
        said = "TIMESTAMP/vis_data/scalars.json is missing" if not files else "its logs hold no training"
        raise DataError(
            f"{str(work_dir)!r} has no logs of a training: {said}; give the work_dir of tools/train.py."
        )
    per_epoch = _iterations_per_epoch(line for lines in parts for line in lines)
    points: dict[str, dict[int, float]] = defaultdict(dict)
    for lines in parts:
        start = min(line["iter"] for line in lines if "iter" in line)
        for of_key in points.values():
            for iteration in [iteration for iteration in of_key if iteration >= start]:
                del of_key[iteration]
        for line in lines:
            iteration = _iteration(line, per_epoch)
            for key, value in line.items():
                if key not in _PLACES and isinstance(value, int | float):
                    points[key][iteration] = float(value)
    curves = {}
    for key, of_key in points.items():
        if of_key:
            iterations = np.array(sorted(of_key))
            curves[key] = Curve(iterations, np.array([of_key[iteration] for iteration in iterations]))
    return Scalars(work_dir.name or str(work_dir), curves, per_epoch, _who_predicts(files))


def choose_keys(runs: Sequence[Scalars], patterns: Sequence[str] | None) -> list[str]:
    """The names of the numbers to draw.

    Args:
        runs: What was logged.
        patterns: Names, or patterns like ``*loss_cls``; None for every loss, what networks taught (``NAME.share``)
            and the main mAP of each metric.

    Raises:
        DataError: nothing was logged under one of them.
    """
    known = list(dict.fromkeys(key for run in runs for key in run.curves))
    if patterns is None:
        chosen = [key for key in known if "loss" in key]
        # The sum first, whatever order it was logged in.
        chosen.sort(key=lambda key: key != "loss")
        chosen += [key for key in known if key.endswith(".share")]
        return chosen + [key for key in known if key.endswith("mAP")]
    chosen = []
    for pattern in patterns:
        found = [key for key in known if fnmatch(key, pattern)]
        if not found:
            raise DataError(f"--keys: nothing is logged as {pattern!r}{nearest(pattern, known)}.")
        chosen += [key for key in found if key not in chosen]
    return chosen


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """``(T,)`` means of each value and those about it, ``window`` in all; fewer towards both ends."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    index = np.arange(len(values))
    reach = np.minimum(np.minimum(index, index[::-1]), (window - 1) // 2)
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def _who_predicts(files: Sequence[Path]) -> str | None:
    """From the config that MMEngine writes beside the newest log."""
    configs = [file.with_name("config.py") for file in files if file.with_name("config.py").is_file()]
    if not configs:
        return None
    # What the config imports is not needed to read it.
    model = Config.fromfile(configs[-1], import_custom_modules=False).get("model") or {}
    networks = model.get("networks") or {}
    return model.get("predict_with") or model.get("deploy") or next(iter(networks), None)


def _lines(file: Path) -> list[dict]:
    lines = []
    for text in file.read_text().splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def _iterations_per_epoch(lines) -> int | None:
    """From lines that name both; the last of an epoch need not have been logged."""
    shares = [line["iter"] / line["epoch"] for line in lines if line.get("epoch") and "iter" in line]
    return math.ceil(max(shares)) if shares else None


def _iteration(line: dict, per_epoch: int | None) -> int:
    if "iter" in line:
        return line["iter"]
    step = line.get("step", 0)
    # A metric's step is the epoch where epochs are counted; that of other numbers is the iteration.
    is_metric = any("/" in key and not key.startswith("role_switch/") for key in line)
    return step * per_epoch if is_metric and per_epoch else step
