"""Panels that show the costs of an object's candidates and how they were split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lad.analysis.pictures.assignment_picture import AssignmentPicture, Candidates
from lad.analysis.pictures.levels import COLOURS, MARKERS, level_name
from lad.analysis.pictures.sheet import DARK

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DENSITY_HEIGHT = 2.2  # of the mixture's density above the levels, in rows


def has_density(row: Sequence[Candidates]) -> bool:
    """Whether one of an object's panels has a mixture to draw."""
    return any(own.mixture is not None for own in row)


def cost_limits(row: Sequence[Candidates]) -> tuple[float, float]:
    """Common range of an object's costs in all panels."""
    costs = np.concatenate([own.costs[np.isfinite(own.costs)] for own in row])
    if not len(costs):
        return 0.0, 1.0
    low, high = costs.min(), costs.max()
    margin = max(0.04 * (high - low), 0.02 * abs(high), 1e-3)
    return float(low - margin), float(high + margin)


def draw_costs(
    axes: Axes,
    own: Candidates,
    levels: Sequence[int],
    picture: AssignmentPicture,
    limits: tuple[float, float],
    taught_by: Sequence[str | None] | None,
) -> None:
    """Draw an object's costs, a row of markers for each level, and the mixture above them.

    Args:
        axes: Axes to draw into.
        own: The object's candidates.
        levels: Levels that have a row.
        picture: The whole picture, for strides and the name of the costs.
        limits: Range of the costs.
        taught_by: Name of the network that taught each level, or None.
    """
    for row, level in enumerate(levels):
        axes.axhline(row, color="#DDDDDD", linewidth=0.8, zorder=0)
        of_level = (own.levels == level) & np.isfinite(own.costs)
        colour, marker = COLOURS[level % len(COLOURS)], MARKERS[level % len(MARKERS)]
        for here, filled in ((of_level & ~own.positive, False), (of_level & own.positive, True)):
            axes.scatter(
                own.costs[here],
                np.full(here.sum(), row),
                s=34,
                marker=marker,
                facecolors=colour if filled else "white",
                edgecolors="black" if filled else colour,
                linewidths=0.8 if filled else 1.3,
                zorder=4 if filled else 3,
            )
    bottom, names = -0.7, []
    for level in levels:
        name = level_name(picture.strides[level])
        teacher = taught_by[level] if taught_by is not None else None
        names.append(f"{name} {teacher}" if teacher else name)
    top = len(levels) - 0.4
    if own.mixture is not None:
        # Including the means: a narrow peak between two values would be missed.
        values = np.unique(np.concatenate([np.linspace(*limits, 300), own.mixture.means]))
        base, height = top, DENSITY_HEIGHT - 0.3
        for curve, colour, line in zip(
            base + height * own.mixture.curves(values), ("#0072B2", "#D55E00"), ("-", "--"), strict=True
        ):
            axes.fill_between(values, base, curve, color=colour, alpha=0.18, linewidth=0)
            axes.plot(values, curve, color=colour, linestyle=line, linewidth=1.5)
        axes.axhline(base, color=DARK, linewidth=0.6)
        top += DENSITY_HEIGHT
    if own.threshold is not None:
        axes.axvline(own.threshold, color="black", linestyle=":", linewidth=1.6, zorder=2)
    axes.set(xlim=limits, ylim=(bottom, top))
    axes.set_yticks(range(len(levels)), names, size=8.5)
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(axis="x", labelsize=8.5, pad=1)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(picture.cost, size=9, labelpad=1)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
