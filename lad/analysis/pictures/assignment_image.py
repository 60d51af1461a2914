"""Panels that show an object's box and its positives in the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lad.analysis.pictures.assignment_picture import Candidates
from lad.analysis.pictures.levels import COLOURS, MARKERS

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BOX = "#F0E442"
_RING = 3.4  # area of a new positive's ring relative to its marker's


def show_image(axes: Axes, image: np.ndarray, window: np.ndarray | None = None) -> None:
    """Show an image, or a window of it (x1, y1, x2, y2 in px)."""
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0), interpolation="bicubic", aspect="auto")
    x1, y1, x2, y2 = (0, 0, width, height) if window is None else window
    axes.set(xlim=(x1, x2), ylim=(y2, y1), xticks=[], yticks=[], facecolor="#E6E6E6")
    for spine in axes.spines.values():
        spine.set(color="#999999", linewidth=0.8)


def object_window(bbox: np.ndarray, row: Sequence[Candidates]) -> np.ndarray:
    """Square window ``(4,)``, x1, y1, x2, y2, around an object and its positives in all panels."""
    points = np.concatenate([own.centres[own.positive] for own in row] + [bbox.reshape(2, 2)])
    low, high = points.min(0), points.max(0)
    half = max((high - low).max() * 0.58, 24)
    centre = (low + high) / 2
    return np.concatenate([centre - half, centre + half])


def draw_box(axes: Axes, bbox: np.ndarray, name: str = "", strong: bool = True) -> None:
    """Draw an object's box, with its name."""
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = bbox
    for colour, width in (("black", 3.6), (_BOX, 1.8)) if strong else (("black", 1.6), (_BOX, 0.8)):
        # A dark outline keeps the colour visible on any photograph.
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width))
    if name:
        axes.annotate(
            name,
            (max(x1, 0), max(y1, 0)),
            xytext=(2, -2),
            textcoords="offset points",
            va="top",
            size=9,
            weight="bold",
            bbox={"boxstyle": "square,pad=0.15", "facecolor": _BOX, "edgecolor": "none"},
        )


def draw_positives(axes: Axes, own: Candidates, before: Candidates | None) -> None:
    """Draw an object's positives; the larger markers of coarse levels are below those of fine ones.

    Args:
        axes: Axes of the image.
        own: The object's candidates.
        before: Candidates to compare with: added positives are ringed, removed ones are crosses; None for none.
    """
    old = before.positives if before is not None else own.positives
    kept = own.among(old)
    for level in sorted(set(own.levels.tolist()), reverse=True):
        for rows, ring in ((kept, False), (~kept, True)):
            here = own.positive & (own.levels == level) & rows
            if here.any():
                _mark(axes, own.centres[here], level, ring)
    if before is not None:
        gone = before.positive & ~before.among(own.positives)
        for level in sorted(set(before.levels[gone].tolist()), reverse=True):
            for point in before.centres[gone & (before.levels == level)]:
                _cross(axes, point, level, _covered(own, kept, point))


def _covered(own: Candidates, kept: np.ndarray, point: np.ndarray) -> float:
    """Radius in pt around a point that the markers and rings of positives cover; 0 where there are none."""
    here = own.positive & (np.abs(own.centres - point).max(1) < 1)
    corners = [math.sqrt(_size(level) / 2) for level in own.levels[here]]
    rings = [math.sqrt(_size(level) * _RING) / 2 for level in own.levels[here & ~kept]]
    return max(corners + rings, default=0.0)


def _size(level: int) -> float:
    """Area of a level's marker, in pt^2: it grows with the level so that two priors in one place are both visible."""
    return 40 * (level + 1) ** 1.8


def _cross(axes: Axes, point: np.ndarray, level: int, covered: float) -> None:
    """Mark a removed positive: in its level's colour, below the markers in its place and longer than they are."""
    reach = max(math.sqrt(_size(level) / 2) + 2.5, covered + 8)
    order = 6 - 0.1 * level  # above rings, below markers
    for colour, width in (("black", 5.0), ("white", 3.8), (COLOURS[level % len(COLOURS)], 2.4)):
        axes.scatter(point[0], point[1], marker="x", s=2 * reach**2, c=colour, linewidths=width, zorder=order)


def _mark(axes: Axes, points: np.ndarray, level: int, new: bool) -> None:
    """Draw positives of a level, with rings if they are new."""
    size = _size(level)
    style: dict[str, Any] = {"s": size, "marker": MARKERS[level % len(MARKERS)], "zorder": 8 - 0.1 * level}
    if new:
        ring: dict[str, Any] = {"s": size * _RING, "marker": "o", "facecolors": "none", "zorder": 5}
        for colour, width in (("black", 3.4), ("white", 1.6)):
            axes.scatter(points[:, 0], points[:, 1], edgecolors=colour, linewidths=width, **ring)
    colour = COLOURS[level % len(COLOURS)]
    axes.scatter(points[:, 0], points[:, 1], c="black", edgecolors="black", linewidths=3.4, **style)
    axes.scatter(points[:, 0], points[:, 1], c=colour, edgecolors="white", linewidths=1.3, **style)
