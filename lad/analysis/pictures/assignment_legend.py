"""Legend and table of counts of a picture of label assignment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lad.analysis.pictures.assignment_picture import MAX_PEAK_RATIO, AssignmentPicture
from lad.analysis.pictures.levels import COLOURS, MARKERS, level_name
from lad.analysis.pictures.sheet import DARK, Sheet

import numpy as np


def draw_counts(sheet: Sheet, picture: AssignmentPicture, numbers: Sequence[int], x: float, y: float) -> None:
    """Draw a table of the number of positives in each panel, with its top left at (x, y)."""
    counts = np.array([[own.positive.sum() for own in panel.objects] for panel in picture.panels], dtype=int)
    counts = counts.reshape(len(picture.panels), -1)
    shown = list(numbers)[:3]
    columns = [(str(number), counts[:, number]) for number in shown] + [("all", counts.sum(1))]
    sheet.text(x, y + 2, "positives of object", weight="bold")
    for line, panel in enumerate(picture.panels, start=2):
        sheet.text(x, y + 2 + 20 * line, panel.title)
    for column, (name, values) in enumerate(columns):
        right = x + 166 + 30 * column + (10 if name == "all" else 0)
        sheet.text(right, y + 22, name, ha="right", weight="bold")
        for line, value in enumerate(values, start=2):
            sheet.text(right, y + 2 + 20 * line, str(value), ha="right")


def draw_legend(sheet: Sheet, picture: AssignmentPicture, x: float, y: float) -> None:
    """Draw the legend of levels, marks and curves that a picture uses, with its top left at (x, y)."""
    from matplotlib.lines import Line2D

    used = sorted({int(level) for panel in picture.panels for own in panel.objects for level in own.levels})
    handles, names = [], []

    def add(name: str, **style: Any) -> None:
        handles.append(Line2D([], [], linestyle=style.pop("linestyle", "none"), **style))
        names.append(name)

    for level in used:
        style = {"markerfacecolor": COLOURS[level % len(COLOURS)], "markeredgecolor": "black"}
        stride = picture.strides[level]
        add(
            f"{level_name(stride)}: a prior each {stride} px",
            marker=MARKERS[level % len(MARKERS)],
            markersize=9,
            **style,
        )
    hollow = {"markerfacecolor": "white", "markeredgecolor": DARK, "markersize": 8}
    add("filled: positive", marker="o", markerfacecolor=DARK, markeredgecolor=DARK, markersize=8)
    add("hollow: candidate that is not positive", marker="o", **hollow)
    if picture.changed is not None:
        add(
            "ring: added by LAD",
            marker="o",
            markerfacecolor="none",
            markeredgecolor="black",
            markeredgewidth=1.8,
            markersize=13,
        )
        add(
            "cross in its level's colour: removed by LAD",
            marker="x",
            color="black",
            markeredgewidth=2,
            markersize=8,
        )
    every = [own for panel in picture.panels for own in panel.objects]
    if any(own.mixture is not None for own in every):
        add("density of the better component", linestyle="-", color="#0072B2", linewidth=1.5)
        add(
            f"density of the worse component\n(drawn at most {MAX_PEAK_RATIO} : 1 in height)",
            linestyle="--",
            color="#D55E00",
            linewidth=1.5,
        )
    if any(own.threshold is not None for own in every):
        add("threshold", linestyle=":", color="black", linewidth=1.6)
    sheet.figure.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=(x / sheet.width, 1 - (y - 8) / sheet.height),
        frameon=False,
        fontsize=10,
        labelspacing=0.55,
        borderaxespad=0,
    )
