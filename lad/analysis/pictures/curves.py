"""Plot the logged scalars of one or several runs."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lad.analysis.training_logs import Scalars
from lad.errors import DataError, nearest

import numpy as np

# Okabe and Ito's colours, distinct for colour-blind readers too; runs differ in their markers as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Their number is coprime to that of the colours: 42 runs differ in colour or marker.
_MARKERS = ("o", "s", "^", "D", "v", "P")

if TYPE_CHECKING:  # importing them takes a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import LineStyleType

# Metadata by suffix of the file: without program version and date, the same runs give the same bytes.
FORMATS = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
_LINES: tuple[LineStyleType, ...] = ("-", "--", ":", "-.")
_COLUMNS = 3
# What MulDE logs of each teacher.
_WEIGHT = re.compile(r"(.+?)\.(weight(?:\..+)?)")


def choose_keys(runs: Sequence[Scalars], patterns: Sequence[str] | None) -> list[str]:
    """Select the logged scalars to draw.

    Args:
        runs: Logged scalars of each run.
        patterns: Names, or patterns like ``*loss_cls``; None for every loss, the share of objects that each network
            taught (``NAME.share``), the weights of teachers (``NAME.weight``, without those of each class) and the main
            mAP of each metric.

    Returns:
        Names of scalars.

    Raises:
        DataError: a pattern matches nothing.
    """
    known = list(dict.fromkeys(key for run in runs for key in run.curves))
    if patterns is None:
        chosen = [key for key in known if "loss" in key]
        # The sum of all losses first.
        chosen.sort(key=lambda key: key != "loss")
        chosen += [key for key in known if key.endswith((".share", ".weight"))]
        return chosen + [key for key in known if key.endswith("mAP")]
    chosen = []
    for pattern in patterns:
        found = [key for key in known if fnmatch(key, pattern)]
        if not found:
            raise DataError(f"--keys: nothing is logged as {pattern!r}{nearest(pattern, known)}.")
        chosen += [key for key in found if key not in chosen]
    return chosen


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Centred running mean over a number of values, fewer towards both ends.

    NaN and infinite values are left out of the means around them, and are themselves in the result: a curve has a gap
    where, and only where, the logged value is none.

    Args:
        values: ``(T,)``.
        window: Number of values, odd.

    Returns:
        ``(T,)``.
    """
    known = np.isfinite(values)
    means = np.array(values, float)
    # Each window alone: after a value of 1e30 nothing is left of the others in a cumulative sum.
    for index in np.flatnonzero(known).tolist():
        reach = min(index, len(values) - 1 - index, (window - 1) // 2)
        near = slice(index - reach, index + reach + 1)
        means[index] = values[near][known[near]].mean()
    return means


def split_key(key: str) -> tuple[str, str]:
    """Split a scalar's name into network and name: ``('a', 'share')`` of ``'a.share'``, else ``('', key)``.

    The weight of a teacher, ``TEACHER.weight.CLASS``, is the teacher's.
    """
    if found := _WEIGHT.fullmatch(key):
        return found[1], found[2]
    network, dot, name = key.partition(".")
    return (network, name) if dot and "/" not in network else ("", key)


def draw_curves(
    runs: Sequence[Scalars],
    keys: Sequence[str],
    out_file: str | os.PathLike[str],
    *,
    smooth: int = 1,
    by_epoch: bool = False,
) -> None:
    """Draw a panel for each scalar; runs differ in colour and marker, trained networks of one run in line style.

    Args:
        runs: Logged scalars of each run.
        keys: Names of scalars; those of several trained networks (``a.loss_cls``, ``b.loss_cls``) share a panel.
        out_file: PNG, PDF or SVG file, by its suffix (:data:`FORMATS`); its folder is created if necessary.
        smooth: Window of a running mean, in points; the points themselves are then pale.
        by_epoch: Whether the x axis counts epochs, where all runs count them.
    """
    from matplotlib.figure import Figure  # importing it takes a second

    panels: dict[str, list[tuple[str, str]]] = {}
    for key in keys:
        network, name = split_key(key)
        panels.setdefault(name, []).append((network, key))
    networks = sorted({network for panel in panels.values() for network, _ in panel if network})
    rows = math.ceil(len(panels) / _COLUMNS)
    columns = min(_COLUMNS, len(panels))
    legend = 0.32 * math.ceil(len(runs) / 2 + (len(networks) + 1) / 4) + 0.15
    figure = Figure(
        figsize=(3.6 * max(columns, 2), 2.5 * rows + legend), dpi=100, facecolor="white", layout="constrained"
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    counts_epochs = by_epoch and all(run.iterations_per_epoch for run in runs)
    for axes, (name, lines) in zip(grid.flat, panels.items(), strict=False):
        for number, run in enumerate(runs):
            for network, key in lines:
                if "/" in key and run.predicts in networks:
                    network = run.predicts
                if key in run.curves:
                    _draw(
                        axes,
                        run,
                        key,
                        number,
                        networks.index(network) if network else 0,
                        smooth,
                        counts_epochs,
                    )
        _finish(axes, name, "epochs" if counts_epochs else "iterations")
    has_metrics = any("/" in key for key in keys)
    names = [
        f"{run.name} (mAP: {run.predicts})" if run.predicts and has_metrics else run.name for run in runs
    ]
    _legend(figure, names, networks)
    out_file = Path(out_file)
    out_file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_file, metadata=FORMATS[out_file.suffix])


def _draw(axes: Axes, run: Scalars, key: str, number: int, network: int, smooth: int, by_epoch: bool) -> None:
    curve = run.curves[key]
    x = curve.iterations / (run.iterations_per_epoch if by_epoch else 1)
    style: dict[str, Any] = {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": _LINES[network % len(_LINES)],
    }
    is_metric = "/" in key
    marks: dict[str, Any] = {"marker": _MARKERS[number % len(_MARKERS)], "markersize": 5}
    # A few markers identify a long line.
    marks["markevery"] = 1 if is_metric else (max(len(x) // 10, 1) * (number % 3) // 3, max(len(x) // 5, 1))
    values = curve.values
    if smooth > 1 and not is_metric:
        axes.plot(x, values, alpha=0.3, linewidth=0.9, **style)
        values = running_mean(values, smooth)
    axes.plot(x, values, linewidth=1.6, **marks, **style)


def _finish(axes: Axes, name: str, unit: str) -> None:
    axes.set_title(name, size=11, weight="bold")
    axes.set_xlabel(unit, size=9)
    axes.tick_params(labelsize=9)
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlim(left=0)
    if name == "share":
        axes.set(ylim=(0, 1), ylabel="share of objects taught")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    elif name.partition(".")[0] == "weight":
        axes.set(ylim=(0, 1), ylabel="weight of the teacher")
    elif "mAP" in name:
        highest = max((np.nanmax(line.get_ydata()) for line in axes.lines), default=0)
        axes.set_ylim(0, max(1.1 * highest, 0.05))
        axes.set_ylabel("mAP", size=9)
    elif "loss" in name:
        axes.set_ylabel("loss", size=9)
        values = np.concatenate([line.get_ydata() for line in axes.lines])
        if len(values) and np.nanmin(values) >= 0:
            axes.set_ylim(bottom=0)
    number_lone_points(axes)


def number_lone_points(axes: Axes) -> None:
    """Annotate curves of a single point with their values, without overlaps."""
    lone: list[tuple[float, float, Any]] = []
    for line in axes.lines:
        xs, ys = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        (known,) = np.nonzero(np.isfinite(ys))
        # A line without markers is the unsmoothed copy of another.
        if len(known) == 1 and line.get_marker() != "None":
            lone.append((float(ys[known[0]]), float(xs[known[0]]), line.get_color()))
    bottom, top = axes.get_ylim()
    height = 0.09 * (top - bottom)
    place = -math.inf
    for y, x, colour in sorted(lone):
        place = max(y, place + height)
        axes.annotate(
            f"{y:.3g}",
            (x, place),
            xytext=(-7, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            size=9,
            color=colour,
        )


def _legend(figure: Figure, runs: Sequence[str], networks: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[n % len(COLOURS)], marker=_MARKERS[n % len(_MARKERS)], label=name)
        for n, name in enumerate(runs)
    ]
    handles += [
        Line2D([], [], color="#333333", linestyle=_LINES[n % len(_LINES)], label=f"network {name}")
        for n, name in enumerate(networks)
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 2 if len(runs) > 2 else 3),
        frameon=False,
        fontsize=9.5,
    )
