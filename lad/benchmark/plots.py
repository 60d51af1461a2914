"""A suite's results as pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from lad.benchmark.results import HOLDS, NOT_DECIDED, REFUTED, Row, Summary
from lad.evaluation.bootstrap import Interval

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision tell apart; marks differ too.
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#7F7F7F"
MARKS = {
    HOLDS: (BLUE, "D", "above 0"),
    REFUTED: (VERMILLION, "v", "below 0"),
    NOT_DECIDED: (GREY, "s", "around 0, or not all seeds"),
}
BAR = dict(linewidth=3, alpha=0.6, solid_capstyle="butt")
SEED = dict(color="white", markeredgecolor="black", markersize=5)


def draw_map(summary: Summary, file: Path) -> bool:
    """mAP of every row: seeds, mean and interval; returns whether there was anything to draw."""
    rows = summary.rows
    if all(row.interval is None for row in rows):
        return False
    figure, axes = _axes(rows)
    for place, row in enumerate(rows):
        if row.interval is None:
            _draw_missing(axes, place)
            continue
        colour = BLUE if row.network.baseline else GREY
        seeds = [record.metrics["mAP"] for record in row.records.values()]
        _draw(axes, place, row.interval, seeds, colour, "D")
    axes.plot([], [], "D", color=GREY, label="mean, alone or teacher")
    axes.plot([], [], "D", color=BLUE, label="mean, compared with a baseline")
    _finish(figure, axes, "mAP", summary)
    figure.savefig(file, dpi=120)
    return True


def draw_differences(summary: Summary, file: Path) -> bool:
    """Difference of mAP to the baseline: seeds, mean and interval; returns whether there was anything to draw."""
    rows = [row for row in summary.rows if row.network.baseline is not None]
    if all(row.difference is None for row in rows):
        return False
    titles = {row: network.title for row, network in summary.suite.networks.items()}
    figure, axes = _axes(rows, [f"{row.network.title}\nover {titles[row.network.baseline]}" for row in rows])
    axes.axvline(0, color="black", linewidth=1)
    for place, row in enumerate(rows):
        if row.difference is None:
            _draw_missing(axes, place)
            continue
        colour, mark, _ = MARKS.get(row.verdict, MARKS[NOT_DECIDED])
        _draw(axes, place, row.difference, list(row.seed_differences.values()), colour, mark)
    for colour, mark, text in MARKS.values():
        axes.plot([], [], mark, color=colour, label=f"mean, interval {text}")
    _finish(figure, axes, "difference of mAP to the baseline", summary)
    figure.savefig(file, dpi=120)
    return True


def _axes(rows: Sequence[Row], labels: Sequence[str] | None = None) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, 1.6 + 0.5 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    labels = labels or [row.network.title for row in rows]
    axes.set_yticks(range(len(rows)), ["\n".join(map(_wrapped, label.split("\n"))) for label in labels])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", color="#DDDDDD")
    axes.set_axisbelow(True)
    return figure, axes


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 44)


def _draw_missing(axes: Axes, place: int) -> None:
    axes.text(0.02, place, "missing", color=GREY, va="center", transform=axes.get_yaxis_transform())


def _draw(axes: Axes, place: int, interval: Interval, seeds: Sequence[float], colour: str, mark: str) -> None:
    axes.plot(
        [interval.low, interval.high],
        [place, place],
        color=colour,
        **BAR,
    )
    axes.plot(seeds, [place + 0.25] * len(seeds), "o", zorder=3, **SEED)
    axes.plot([interval.value], [place], mark, color=colour, markersize=8, zorder=2)


def _finish(figure: Figure, axes: Axes, label: str, summary: Summary) -> None:
    axes.plot([], [], color=GREY, **BAR, label="95 % bootstrap interval (images and seeds)")
    axes.plot([], [], "o", **SEED, label="one seed")
    axes.set_xlabel(label)
    axes.set_title(summary.suite.title, fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
