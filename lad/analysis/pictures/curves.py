"""One picture of the losses, shares and metrics of one or several runs."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from lad.analysis.pictures.scalars import Scalars, running_mean

import numpy as np

# Okabe and Ito's colours, told apart by colour-blind readers too; runs differ in their markers as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# As many as have no divisor in common with the colours: no two of 42 runs look alike.
_MARKERS = ("o", "s", "^", "D", "v", "P")
# By suffix of the file: without program version and date, the same runs give the same picture.
FORMATS = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
_LINES = ("-", "--", ":", "-.")
_COLUMNS = 3


def split_key(key: str) -> tuple[str, str]:
    """The network and the number that a name stands for: ``('a', 'share')`` of ``'a.share'``, else ``('', key)``."""
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
    """Draw a panel for each number; runs are told apart by colour and marker, networks that learn together by line.

    Args:
        runs: What was logged.
        keys: Names of the numbers; those of networks that learn together (``a.loss_cls``, ``b.loss_cls``) share a
            panel.
        out_file: PNG, PDF or SVG to write, by its suffix (:data:`FORMATS`); its folder is made if need be.
        smooth: Points that a running mean goes over; the points themselves are then pale.
        by_epoch: Whether the axis counts epochs, where the run counts them.
    """
    from matplotlib.figure import Figure  # only when a picture is wanted: importing it takes a second

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


def _draw(axes, run: Scalars, key: str, number: int, network: int, smooth: int, by_epoch: bool) -> None:
    curve = run.curves[key]
    x = curve.iterations / (run.iterations_per_epoch if by_epoch else 1)
    style = {"color": COLOURS[number % len(COLOURS)], "linestyle": _LINES[network % len(_LINES)]}
    is_metric = "/" in key
    marks = {"marker": _MARKERS[number % len(_MARKERS)], "markersize": 5}
    # Of a long run a few marks tell whose line it is.
    marks["markevery"] = 1 if is_metric else (max(len(x) // 10, 1) * (number % 3) // 3, max(len(x) // 5, 1))
    values = curve.values
    if smooth > 1 and not is_metric:
        axes.plot(x, values, alpha=0.3, linewidth=0.9, **style)
        values = running_mean(values, smooth)
    axes.plot(x, values, linewidth=1.6, **marks, **style)


def _finish(axes, name: str, unit: str) -> None:
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


def number_lone_points(axes) -> None:
    """Say the value of a curve that is but one point; numbers of points near each other are kept apart."""
    lone = []
    for line in axes.lines:
        (known,) = np.nonzero(np.isfinite(line.get_ydata()))
        # A pale line, without markers, is the same curve again.
        if len(known) == 1 and line.get_marker() != "None":
            lone.append((line.get_ydata()[known[0]], line.get_xdata()[known[0]], line.get_color()))
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


def _legend(figure, runs: Sequence[str], networks: Sequence[str]) -> None:
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
