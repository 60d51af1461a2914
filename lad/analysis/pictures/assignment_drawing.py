"""Pictures of label assignment: which priors each network calls positive for an object, and why."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours stay apart for every kind of colour vision; the markers tell levels apart without any.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_BOX = "#F0E442"
_DARK = "#333333"

_DPI = 100
_CELL, _GAP, _EDGE = 300, 14, 10  # px
_HEAD, _TITLE, _LINE, _FOOT = (
    34,
    62,
    17,
    18,
)  # px; a line more below the title where networks teach each other
_DENSITY = 2.2  # height of the density above the levels, in rows
_RING = 3.4  # area of a new positive's ring over its marker's
_RATIO = 3  # the higher component's curve is at most so many times as high as the other


@dataclass(frozen=True, eq=False)
class Mixture:
    """Two Gaussians over an object's candidate losses; the first is the better one.

    Attributes:
        means, stds, weights: ``(2,)``; weights sum to 1.
    """

    means: np.ndarray
    stds: np.ndarray
    weights: np.ndarray

    def density(self, values: np.ndarray) -> np.ndarray:
        """The two weighted densities ``(2, N)`` at values ``(N,)``."""
        z = (values - self.means[:, None]) / self.stds[:, None]
        return self.peaks[:, None] * np.exp(-0.5 * z**2)

    @property
    def peaks(self) -> np.ndarray:
        """``(2,)``: the weighted densities at the means."""
        return self.weights / (self.stds * math.sqrt(2 * math.pi))

    def curves(self, values: np.ndarray) -> np.ndarray:
        """Both densities ``(2, N)`` at values ``(N,)``, to be drawn: from 0 to 1, the lower peak at 1 / 3 at least.

        A component of one candidate is a needle beside which the other would be flat.
        """
        heights = np.maximum(self.peaks / self.peaks.max(), 1 / _RATIO)
        return heights[:, None] * self.density(values) / self.peaks[:, None]


@dataclass(frozen=True, eq=False)
class Candidates:
    """The K priors that were considered for one object, in the order of their numbers.

    Attributes:
        priors: ``(K, 4)``, x1, y1, x2, y2 in px of the image; of a point the cell that it stands for.
        levels: ``(K,)``, the feature level, counted from 0.
        costs: ``(K,)``, what taking the prior for the object costs; infinite where the assigner gives no cost.
        positive: ``(K,)`` bool.
        mixture: What the costs were split by; None for assigners without.
        threshold: The largest cost of a positive as the assigner sets it; None for assigners without.
    """

    priors: np.ndarray
    levels: np.ndarray
    costs: np.ndarray
    positive: np.ndarray
    mixture: Mixture | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        count = len(self.priors)
        for name in ("levels", "costs", "positive"):
            if getattr(self, name).shape != (count,):
                raise ValueError(f"{count} priors with {name} of shape {getattr(self, name).shape}")

    @property
    def centres(self) -> np.ndarray:
        """``(K, 2)``, x and y in px."""
        return (self.priors[:, :2] + self.priors[:, 2:]) / 2

    @property
    def positives(self) -> set[tuple[float, ...]]:
        """The positives as level and box, to be compared with another network's."""
        rows = np.column_stack([self.levels, self.priors.round(2)])[self.positive]
        return {tuple(row) for row in rows.tolist()}

    def among(self, positives: set[tuple[float, ...]]) -> np.ndarray:
        """``(K,)`` bool: which priors are in a set of :attr:`positives`."""
        rows = np.column_stack([self.levels, self.priors.round(2)]).tolist()
        return np.array([tuple(row) in positives for row in rows], dtype=bool)

    def cheapest(self, count: int) -> Candidates:
        """The positives and the ``count`` cheapest of all."""
        kept = self.positive.copy()
        kept[np.argsort(self.costs, kind="stable")[:count]] = True
        return replace(
            self,
            priors=self.priors[kept],
            levels=self.levels[kept],
            costs=self.costs[kept],
            positive=self.positive[kept],
        )


@dataclass(frozen=True, eq=False)
class Panel:
    """What one network, or several together, decided of the G objects of an image.

    Attributes:
        title: Who decided.
        objects: G sets of candidates.
        taught_by: For each object and level the name of the network that taught it, None where nobody did; None where
            it is not a question.
    """

    title: str
    objects: tuple[Candidates, ...]
    taught_by: tuple[tuple[str | None, ...], ...] | None = None


@dataclass(frozen=True, eq=False)
class AssignmentPicture:
    """An image, its objects and what several networks decided of them.

    Attributes:
        name: The image's name.
        image: ``(H, W, 3)`` uint8, RGB.
        bboxes: ``(G, 4)``, x1, y1, x2, y2 in px of the image.
        labels: G class names.
        strides: Of each level, px.
        cost: What the costs are.
        panels: In the order of drawing.
        changed: Numbers of two panels: what the second decides other than the first is marked in it; None for no
            comparison.
    """

    name: str
    image: np.ndarray
    bboxes: np.ndarray
    labels: tuple[str, ...]
    strides: tuple[int, ...]
    cost: str
    panels: tuple[Panel, ...]
    changed: tuple[int, int] | None = None

    @property
    def num_changes(self) -> np.ndarray:
        """``(G,)``: how many priors the compared panels, or else the first two, decide differently."""
        if len(self.panels) < 2:
            return np.zeros(len(self.bboxes), dtype=int)
        before, after = (self.panels[number].objects for number in self.changed or (0, 1))
        changes = [len(a.positives ^ b.positives) for a, b in zip(before, after, strict=True)]
        return np.array(changes, dtype=int)

    def most_changed(self, count: int) -> list[int]:
        """The numbers of the ``count`` objects with the most changes, in ascending order."""
        return sorted(np.argsort(-self.num_changes, kind="stable")[:count].tolist())


def draw_assignment(picture: AssignmentPicture, objects: Sequence[int] | None = None) -> np.ndarray:
    """Draw the whole image, and for each object the positives and below them the costs that decided.

    Args:
        picture: What was decided.
        objects: Numbers of the objects to draw; by default all.

    Returns:
        ``(height, width, 3)`` uint8, RGB.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(_figure(picture, objects))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_assignment(
    picture: AssignmentPicture, out_file: str | os.PathLike[str], objects: Sequence[int] | None = None
) -> None:
    """Write the picture of :func:`draw_assignment` as a PNG; its folder is made if need be."""
    from PIL import Image

    out_file = Path(out_file)
    out_file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_assignment(picture, objects)).save(out_file, optimize=True)


def level_name(stride: int) -> str:
    """P3 for a stride of 8 px, and so on."""
    power = math.log2(stride)
    return f"P{int(power)}" if power.is_integer() else f"/{stride}"


def fitting_size(text: str, size: float, width: float, weight: str = "normal") -> float:
    """The font size in pt, at most ``size``, at which a line is no wider than ``width`` px."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    font = FontProperties(size=size, weight=weight)
    needed = RendererAgg(1, 1, _DPI).get_text_width_height_descent(text, font, ismath=False)[0]
    return size * min(1.0, width / max(needed, 1.0))


class _Sheet:
    """Places axes by the pixel, from the top left; it is no part of pyplot, so the backend in use is left alone."""

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.figure import Figure  # only when a picture is wanted: importing it takes a second

        self.width, self.height = width, height
        self.figure: Figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        return self.figure.add_axes(
            (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        )

    def text(self, x: float, y: float, text: str, width: float | None = None, **style) -> None:
        """Write a line; smaller where it would be wider than ``width``, px."""
        style = {"ha": "left", "va": "center", "size": 10.5} | style
        if width is not None:
            style["size"] = fitting_size(text, style["size"], width, style.get("weight", "normal"))
        self.figure.text(x / self.width, 1 - y / self.height, text, **style)


def _figure(picture: AssignmentPicture, objects: Sequence[int] | None) -> Figure:
    numbers = list(range(len(picture.bboxes)) if objects is None else objects)
    columns = len(picture.panels)
    height, width = picture.image.shape[:2]
    overview = round(_CELL * min(height / width, 1.2))
    shown = [[panel.objects[number] for panel in picture.panels] for number in numbers]
    levels = [sorted(set(np.concatenate([own.levels for own in row]).astype(int).tolist())) for row in shown]
    splits = [
        round(22 * (len(used) + _has_density(row) * _DENSITY) + 44)
        for used, row in zip(levels, shown, strict=True)
    ]
    total_width = max(columns * (_CELL + _GAP) + 2 * _EDGE, 2 * (_CELL + _GAP) + 2 * _EDGE)
    top = _HEAD + max(overview, 260) + _GAP
    title = _TITLE + _LINE * any(panel.taught_by is not None for panel in picture.panels)
    total_height = top + sum(title + _CELL + split + _FOOT for split in splits)
    sheet = _Sheet(total_width, total_height)

    sheet.text(_EDGE, _HEAD / 2, f"Who is positive: {picture.name}", size=14, weight="bold")
    axes = sheet.axes(_EDGE, _HEAD, _CELL, overview)
    _show(axes, picture.image)
    for number, bbox in enumerate(picture.bboxes):
        _box(axes, bbox, str(number), strong=number in numbers)
    _legend(sheet, picture, x=_EDGE + _CELL + 2 * _GAP)
    if columns > 2:
        _table(sheet, picture, numbers, x=_EDGE + 2 * (_CELL + _GAP) + 3 * _GAP)

    for number, row, of_object, split in zip(numbers, shown, levels, splits, strict=True):
        sheet.text(
            _EDGE, top + 12, f"object {number}: {picture.labels[number]}", size=12, weight="bold", color=_DARK
        )
        window = _window(picture.bboxes[number], row)
        limits = _limits(row)
        before = None if picture.changed is None else row[picture.changed[0]]
        for column, (panel, own) in enumerate(zip(picture.panels, row, strict=True)):
            x = _EDGE + column * (_CELL + _GAP)
            compared = before if picture.changed is not None and column == picture.changed[1] else None
            axes = sheet.axes(x, top + title, _CELL, _CELL)
            _show(axes, picture.image, window)
            _box(axes, picture.bboxes[number])
            _positives(axes, own, compared)
            centred = {"x": x + _CELL / 2, "ha": "center", "width": _CELL}
            sheet.text(y=top + 34, text=panel.title, weight="bold", size=11.5, **centred)
            sheet.text(y=top + 51, text=_summary(own, compared), **centred)
            taught_by = None if panel.taught_by is None else panel.taught_by[number]
            if taught_by is not None:
                sheet.text(y=top + 51 + _LINE, text=_roles(taught_by, picture.strides), **centred)
            axes = sheet.axes(x + 46, top + title + _CELL + 6, _CELL - 50, split - 40)
            _split(axes, own, of_object, picture, limits, taught_by)
        top += title + _CELL + split + _FOOT
    return sheet.figure


def _summary(own: Candidates, before: Candidates | None) -> str:
    count = f"{int(own.positive.sum())} positive"
    if before is None:
        return count
    new, gone = len(own.positives - before.positives), len(before.positives - own.positives)
    return f"{count}: {new} added, {gone} removed" if new or gone else f"{count}, as for the student alone"


def _roles(taught_by: Sequence[str | None], strides: Sequence[int]) -> str:
    """Who teaches which levels of an object."""
    of_network: dict[str, list[str]] = {}
    for stride, name in zip(strides, taught_by, strict=True):
        if name is not None:
            of_network.setdefault(name, []).append(level_name(stride))
    if not of_network:
        return "taught by nobody"
    return "taught by " + ", ".join(f"{name} ({' '.join(levels)})" for name, levels in of_network.items())


def _has_density(row: Sequence[Candidates]) -> bool:
    return any(own.mixture is not None for own in row)


def _show(axes: Axes, image: np.ndarray, window: np.ndarray | None = None) -> None:
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0), interpolation="bicubic", aspect="auto")
    x1, y1, x2, y2 = (0, 0, width, height) if window is None else window
    axes.set(xlim=(x1, x2), ylim=(y2, y1), xticks=[], yticks=[], facecolor="#E6E6E6")
    for spine in axes.spines.values():
        spine.set(color="#999999", linewidth=0.8)


def _window(bbox: np.ndarray, row: Sequence[Candidates]) -> np.ndarray:
    """A square, x1, y1, x2, y2, around the object and all the positives."""
    points = np.concatenate([own.centres[own.positive] for own in row] + [bbox.reshape(2, 2)])
    low, high = points.min(0), points.max(0)
    half = max((high - low).max() * 0.58, 24)
    centre = (low + high) / 2
    return np.concatenate([centre - half, centre + half])


def _box(axes: Axes, bbox: np.ndarray, name: str = "", strong: bool = True) -> None:
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = bbox
    for colour, width in (("black", 3.6), (_BOX, 1.8)) if strong else (("black", 1.6), (_BOX, 0.8)):
        # A dark bed under the colour keeps it apart from any photograph.
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


def _positives(axes: Axes, own: Candidates, before: Candidates | None) -> None:
    """Positives in the image; coarse levels, whose markers are larger, below fine ones."""
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
    """How far the markers and rings of positives reach about a point, in pt; 0 where there are none."""
    here = own.positive & (np.abs(own.centres - point).max(1) < 1)
    corners = [math.sqrt(_size(level) / 2) for level in own.levels[here]]
    rings = [math.sqrt(_size(level) * _RING) / 2 for level in own.levels[here & ~kept]]
    return max(corners + rings, default=0.0)


def _size(level: int) -> float:
    """Of a level's marker, in pt^2: so large that of two priors in one place both are seen."""
    return 40 * (level + 1) ** 1.8


def _cross(axes: Axes, point: np.ndarray, level: int, covered: float) -> None:
    """A dropped prior: in its level's colour, below the markers in its place and longer than they."""
    reach = max(math.sqrt(_size(level) / 2) + 2.5, covered + 8)
    order = 6 - 0.1 * level  # above rings, below markers
    for colour, width in (("black", 5.0), ("white", 3.8), (COLOURS[level % len(COLOURS)], 2.4)):
        axes.scatter(*point, marker="x", s=2 * reach**2, c=colour, linewidths=width, zorder=order)


def _mark(axes: Axes, points: np.ndarray, level: int, new: bool) -> None:
    size = _size(level)
    style = {"s": size, "marker": MARKERS[level % len(MARKERS)], "zorder": 8 - 0.1 * level}
    if new:
        ring = {"s": size * _RING, "marker": "o", "facecolors": "none", "zorder": 5}
        for colour, width in (("black", 3.4), ("white", 1.6)):
            axes.scatter(*points.T, edgecolors=colour, linewidths=width, **ring)
    colour = COLOURS[level % len(COLOURS)]
    axes.scatter(*points.T, c="black", edgecolors="black", linewidths=3.4, **style)
    axes.scatter(*points.T, c=colour, edgecolors="white", linewidths=1.3, **style)


def _limits(row: Sequence[Candidates]) -> tuple[float, float]:
    """The range of the costs of an object in all panels, so that they can be compared."""
    costs = np.concatenate([own.costs[np.isfinite(own.costs)] for own in row])
    if not len(costs):
        return 0.0, 1.0
    low, high = costs.min(), costs.max()
    margin = max(0.04 * (high - low), 0.02 * abs(high), 1e-3)
    return float(low - margin), float(high + margin)


def _split(
    axes: Axes,
    own: Candidates,
    levels: Sequence[int],
    picture: AssignmentPicture,
    limits: tuple[float, float],
    taught_by: Sequence[str | None] | None,
) -> None:
    """The costs, a row of markers for each level; above them the mixture."""
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
        # With the means: a needle between two values would not be seen.
        values = np.unique(np.concatenate([np.linspace(*limits, 300), own.mixture.means]))
        base, height = top, _DENSITY - 0.3
        for curve, colour, line in zip(
            base + height * own.mixture.curves(values), ("#0072B2", "#D55E00"), ("-", "--"), strict=True
        ):
            axes.fill_between(values, base, curve, color=colour, alpha=0.18, linewidth=0)
            axes.plot(values, curve, color=colour, linestyle=line, linewidth=1.5)
        axes.axhline(base, color=_DARK, linewidth=0.6)
        top += _DENSITY
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


def _table(sheet: _Sheet, picture: AssignmentPicture, numbers: Sequence[int], x: float) -> None:
    """How many positives everyone has, of the objects drawn and of all."""
    counts = np.array([[own.positive.sum() for own in panel.objects] for panel in picture.panels], dtype=int)
    counts = counts.reshape(len(picture.panels), -1)
    shown = list(numbers)[:3]
    columns = [(str(number), counts[:, number]) for number in shown] + [("all", counts.sum(1))]
    sheet.text(x, _HEAD + 2, "positives of object", weight="bold")
    for line, panel in enumerate(picture.panels, start=2):
        sheet.text(x, _HEAD + 2 + 20 * line, panel.title)
    for column, (name, values) in enumerate(columns):
        right = x + 166 + 30 * column + (10 if name == "all" else 0)
        sheet.text(right, _HEAD + 22, name, ha="right", weight="bold")
        for line, value in enumerate(values, start=2):
            sheet.text(right, _HEAD + 2 + 20 * line, str(value), ha="right")


def _legend(sheet: _Sheet, picture: AssignmentPicture, x: float) -> None:
    from matplotlib.lines import Line2D

    used = sorted({int(level) for panel in picture.panels for own in panel.objects for level in own.levels})
    handles, names = [], []

    def add(name: str, **style) -> None:
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
    hollow = {"markerfacecolor": "white", "markeredgecolor": _DARK, "markersize": 8}
    add("filled: positive", marker="o", markerfacecolor=_DARK, markeredgecolor=_DARK, markersize=8)
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
            f"density of the worse component\n(drawn at most {_RATIO} : 1 in height)",
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
        bbox_to_anchor=(x / sheet.width, 1 - (_HEAD - 8) / sheet.height),
        frameon=False,
        fontsize=10,
        labelspacing=0.55,
        borderaxespad=0,
    )
