"""Draw the first images of a COCO file with their boxes on one sheet."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from lad.analysis.pictures.sheet import Sheet
from lad.datasets.coco_file import labelled_names
from lad.engine.checkpoints import write_whole

import numpy as np
from PIL import Image

#: Okabe and Ito's colours that stand out from dark and from light images; classes share them in turn.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
#: Of those, the ones on which letters are black.
_LIGHT = ("#E69F00", "#56B4E9", "#F0E442")
_GAP, _TITLE = 6, 34  # px


def draw_contact_sheet(
    folder: Path, content: dict[str, Any], path: Path, count: int = 24, columns: int = 6, cell: int = 160
) -> None:
    """Draw images in a grid, each with its boxes and the names of their classes.

    Args:
        folder: The folder of the images.
        content: Of the COCO file; at least one image.
        path: The PNG to write; its earlier content is replaced.
        count: How many images are drawn at most, the first.
        columns: Images beside each other.
        cell: Width of an image in the picture, in pixels.
    """
    images = content["images"][:count]
    names = dict(
        zip(
            [category["id"] for category in content["categories"]],
            labelled_names(content["categories"], None),
            strict=True,
        )
    )
    colours = {number: COLOURS[index % len(COLOURS)] for index, number in enumerate(names)}
    heights = [round(cell * image["height"] / image["width"]) for image in images]
    columns = min(columns, len(images))
    rows = [range(start, min(start + columns, len(images))) for start in range(0, len(images), columns)]
    tops = np.cumsum([_TITLE, *(max(heights[number] for number in row) + _GAP for row in rows)])
    # The title needs a certain width, however few the images.
    sheet = Sheet(max(columns * (cell + _GAP) + _GAP, 420), int(tops[-1]))
    total = len(content["images"])
    sheet.text(_GAP, _TITLE / 2, f"{len(images)} of {total} images, with the objects that they were made for")
    for row, top in zip(rows, tops[:-1], strict=True):
        for column, number in enumerate(row):
            image = images[number]
            axes = sheet.axes(_GAP + column * (cell + _GAP), float(top), cell, heights[number])
            with Image.open(folder / image["file_name"]) as file:
                pixels = np.asarray(file.convert("RGB"))
            extent = (0, image["width"], image["height"], 0)
            axes.imshow(pixels, extent=extent, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            for one in content["annotations"]:
                if one["image_id"] == image["id"]:
                    _draw_box(axes, one["bbox"], names[one["category_id"]], colours[one["category_id"]])
    file_content = io.BytesIO()
    # Without the version of matplotlib in the file, the same images give the same bytes.
    sheet.figure.savefig(file_content, format="png", metadata={"Software": None})
    write_whole(path, file_content.getvalue())


def _draw_box(axes: Any, box: list[float], name: str, colour: str) -> None:
    from matplotlib.patches import Rectangle  # importing it takes a second

    left, top, width, height = box
    axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=colour, linewidth=1.5))
    axes.text(
        left,
        top,
        name,
        color="black" if colour in _LIGHT else "white",
        fontsize=6,
        va="bottom" if top > 0.06 * axes.get_ylim()[0] else "top",
        clip_on=True,
        bbox={"boxstyle": "square,pad=0.1", "facecolor": colour, "edgecolor": "none"},
    )
