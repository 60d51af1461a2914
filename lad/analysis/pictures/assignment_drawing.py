"""Draw pictures of label assignment: which priors are positive for an object in each network, and their costs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lad.analysis.pictures.assignment_costs import DENSITY_HEIGHT, cost_limits, draw_costs, has_density
from lad.analysis.pictures.assignment_image import draw_box, draw_positives, object_window, show_image
from lad.analysis.pictures.assignment_legend import draw_counts, draw_legend
from lad.analysis.pictures.assignment_picture import AssignmentPicture, Candidates
from lad.analysis.pictures.levels import level_name
from lad.analysis.pictures.sheet import DARK, Sheet

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL, _GAP, _EDGE = 300, 14, 10  # px
_HEAD, _TITLE, _FOOT = 34, 62, 18  # px
_LINE = 17  # px, added below the title where networks teach each other


def draw_assignment(picture: AssignmentPicture, objects: Sequence[int] | None = None) -> np.ndarray:
    """Draw the whole image, and for each object its positives with the candidates' costs below.

    Args:
        picture: Image and assignments.
        objects: Indices of the objects to draw; by default all.

    Returns:
        ``(height, width, 3)`` uint8, RGB.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(_layout(picture, objects))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_assignment(
    picture: AssignmentPicture, out_file: str | os.PathLike[str], objects: Sequence[int] | None = None
) -> None:
    """Write the picture of :func:`draw_assignment` as a PNG; its folder is created if necessary."""
    from PIL import Image

    out_file = Path(out_file)
    out_file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_assignment(picture, objects)).save(out_file, optimize=True)


def _layout(picture: AssignmentPicture, objects: Sequence[int] | None) -> Figure:
    numbers = list(range(len(picture.bboxes)) if objects is None else objects)
    columns = len(picture.panels)
    height, width = picture.image.shape[:2]
    overview = round(_CELL * min(height / width, 1.2))
    shown = [[panel.objects[number] for panel in picture.panels] for number in numbers]
    levels = [sorted(set(np.concatenate([own.levels for own in row]).astype(int).tolist())) for row in shown]
    splits = [
        round(22 * (len(used) + has_density(row) * DENSITY_HEIGHT) + 44)
        for used, row in zip(levels, shown, strict=True)
    ]
    total_width = max(columns * (_CELL + _GAP) + 2 * _EDGE, 2 * (_CELL + _GAP) + 2 * _EDGE)
    top = _HEAD + max(overview, 260) + _GAP
    title = _TITLE + _LINE * any(panel.taught_by is not None for panel in picture.panels)
    total_height = top + sum(title + _CELL + split + _FOOT for split in splits)
    sheet = Sheet(total_width, total_height)

    sheet.text(_EDGE, _HEAD / 2, f"Who is positive: {picture.name}", size=14, weight="bold")
    axes = sheet.axes(_EDGE, _HEAD, _CELL, overview)
    show_image(axes, picture.image)
    for number, bbox in enumerate(picture.bboxes):
        draw_box(axes, bbox, str(number), strong=number in numbers)
    draw_legend(sheet, picture, x=_EDGE + _CELL + 2 * _GAP, y=_HEAD)
    if columns > 2:
        draw_counts(sheet, picture, numbers, x=_EDGE + 2 * (_CELL + _GAP) + 3 * _GAP, y=_HEAD)

    for number, row, of_object, split in zip(numbers, shown, levels, splits, strict=True):
        sheet.text(
            _EDGE,
            top + 12,
            f"object {number}: {picture.labels[number]}",
            size=12,
            weight="bold",
            color=DARK,
        )
        window = object_window(picture.bboxes[number], row)
        limits = cost_limits(row)
        before = None if picture.changed is None else row[picture.changed[0]]
        for column, (panel, own) in enumerate(zip(picture.panels, row, strict=True)):
            x = _EDGE + column * (_CELL + _GAP)
            compared = before if picture.changed is not None and column == picture.changed[1] else None
            axes = sheet.axes(x, top + title, _CELL, _CELL)
            show_image(axes, picture.image, window)
            draw_box(axes, picture.bboxes[number])
            draw_positives(axes, own, compared)
            centred: dict[str, Any] = {"x": x + _CELL / 2, "ha": "center", "width": _CELL}
            sheet.text(y=top + 34, text=panel.title, weight="bold", size=11.5, **centred)
            sheet.text(y=top + 51, text=_summary(own, compared), **centred)
            taught_by = None if panel.taught_by is None else panel.taught_by[number]
            if taught_by is not None:
                sheet.text(y=top + 51 + _LINE, text=_roles(taught_by, picture.strides), **centred)
            axes = sheet.axes(x + 46, top + title + _CELL + 6, _CELL - 50, split - 40)
            draw_costs(axes, own, of_object, picture, limits, taught_by)
        top += title + _CELL + split + _FOOT
    return sheet.figure


def _summary(own: Candidates, before: Candidates | None) -> str:
    count = f"{int(own.positive.sum())} positive"
    if before is None:
        return count
    new, gone = len(own.positives - before.positives), len(before.positives - own.positives)
    return f"{count}: {new} added, {gone} removed" if new or gone else f"{count}, as for the student alone"


def _roles(taught_by: Sequence[str | None], strides: Sequence[int]) -> str:
    """Text that names the network that taught each level of an object."""
    of_network: dict[str, list[str]] = {}
    for stride, name in zip(strides, taught_by, strict=True):
        if name is not None:
            of_network.setdefault(name, []).append(level_name(stride))
    if not of_network:
        return "not taught"
    return "taught by " + ", ".join(f"{name} ({' '.join(levels)})" for name, levels in of_network.items())
