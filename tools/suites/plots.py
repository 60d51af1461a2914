"""Plot the results of a suite."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence, Set
from pathlib import Path

from lad.evaluation.bootstrap import Interval
from suites.results import HOLDS, NOT_DECIDED, REFUTED, Summary

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: Of what rests on a result that the suite would not measure any more.
STALE = "†"
# Okabe and Ito's colours, which people with any colour vision tell apart; marks differ too.
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#7F7F7F"
MARKS = {
    HOLDS: (BLUE, "D", "above 0"),
    REFUTED: (VERMILLION, "v", "below 0"),
    NOT_DECIDED: (GREY, "s", "around 0, one seed, or not all seeds"),
}
BAR = dict(linewidth=3, alpha=0.6, solid_capstyle="butt")
SEED = dict(color="white", markeredgecolor="black", markersize=5)


def draw_map(summary: Summary, file: Path, old: Set[str] = frozenset()) -> bool:
    """mAP of every row: seeds, mean and interval; returns whether there was anything to draw.

    Args:
        summary: What to draw.
        file: The picture.
        old: Rows that are marked as stale.
    """
    rows = summary.rows
    if all(row.interval is None for row in rows):
        return False
    figure, axes = _axes([marked(row.network.title, {row.network.row} & old) for row in rows])
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


def draw_differences(summary: Summary, file: Path, old: Set[str] = frozenset()) -> bool:
    """Difference of mAP to the baseline: seeds, mean and interval; as :func:`draw_map`."""
    rows = [row for row in summary.rows if row.network.baseline is not None]
    if all(row.difference is None for row in rows):
        return False
    titles = {row: network.title for row, network in summary.suite.networks.items()}
    labels = [f"{row.network.title}\nover {titles[row.network.baseline]}" for row in rows]
    uses = [{row.network.row, row.network.baseline} for row in rows]
    figure, axes = _axes([marked(label, own & old) for label, own in zip(labels, uses, strict=True)])
    axes.axvline(0, color="black", linewidth=1)
    for place, row in enumerate(rows):
        if row.difference is None:
            _draw_missing(axes, place)
            continue
        colour, mark, _ = MARKS.get(row.comparison.verdict, MARKS[NOT_DECIDED])
        _draw(axes, place, row.difference, list(row.seed_differences.values()), colour, mark)
    for colour, mark, text in MARKS.values():
        axes.plot([], [], mark, color=colour, label=f"mean, interval {text}")
    _finish(figure, axes, "difference of mAP to the baseline", summary)
    figure.savefig(file, dpi=120)
    return True


def marked(text: str, old: Set[str]) -> str:
    """A text with a dagger where there is something old."""
    return f"{text} {STALE}" if old and text else text


def _axes(labels: Sequence[str]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, 1.6 + 0.5 * len(labels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_yticks(range(len(labels)), ["\n".join(map(_wrapped, label.split("\n"))) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
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
    axes.plot([], [], color=GREY, **BAR, label="95 % interval (images and seeds; of one seed: images alone)")
    axes.plot([], [], "o", **SEED, label="one seed")
    axes.set_xlabel(label)
    axes.set_title(summary.suite.title, fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
