"""Draw the detections of several detectors on the same images beside the ground truth."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.typing import LineStyleType
from PIL import Image


class _Style(NamedTuple):
    colour: str
    ink: str
    line: LineStyleType
    legend: str


# Okabe and Ito's colours stay apart for every kind of colour vision; the lines differ as well.
_TRUTH = _Style("#0072B2", "white", "-", "ground truth")
_CORRECT = _Style("#009E73", "white", "-", "correct: right class, IoU ≥ {iou:g}")
_FALSE = _Style("#D55E00", "white", "--", "false: wrong class, wrong place or second box")
_MISSED = _Style("#F0E442", "black", ":", "missed ground truth")

_DPI = 100
_GAP, _TITLE, _FOOT = 8, 52, 64  # px
_LINE = (4.0, 2.4)  # points, of a box's dark bed and of its colour


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes of one image, of a detector or of the ground truth.

    Attributes:
        bboxes: ``(N, 4)``, x1, y1, x2, y2 in px of the image.
        scores: ``(N,)``, 0 to 1.
        labels: ``(N,)``, indices of classes.
    """

    bboxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        bboxes = np.asarray(self.bboxes, dtype=float).reshape(-1, 4)
        scores, labels = np.asarray(self.scores, dtype=float), np.asarray(self.labels, dtype=int)
        if scores.shape != (len(bboxes),) or labels.shape != (len(bboxes),):
            raise ValueError(f"{len(bboxes)} boxes with scores {scores.shape} and labels {labels.shape}")
        for name, value in (("bboxes", bboxes), ("scores", scores), ("labels", labels)):
            object.__setattr__(self, name, value)

    @classmethod
    def of_ground_truth(cls, bboxes: np.ndarray, labels: np.ndarray) -> Detections:
        """Return the boxes ``(N, 4)`` and labels ``(N,)`` of the ground truth, with score 1."""
        return cls(bboxes, np.ones(len(labels)), labels)

    def above(self, score_thr: float) -> Detections:
        """Return those that score at least ``score_thr``."""
        keep = self.scores >= score_thr
        return Detections(self.bboxes[keep], self.scores[keep], self.labels[keep])


@dataclass(frozen=True)
class Tally:
    """Numbers of correct and false detections, and of missed ground truths."""

    correct: int = 0
    false: int = 0
    missed: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.correct + other.correct, self.false + other.false, self.missed + other.missed)


def match_detections(
    detections: Detections, ground_truth: Detections, iou_thr: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Tell which detections are correct and which ground truths no detection found.

    As in COCO's evaluation: in order of decreasing score each detection takes the ground truth of its class
    that it overlaps most among those not yet taken, if their IoU reaches ``iou_thr``.

    Args:
        detections: N boxes of one image, all of which count.
        ground_truth: M boxes of the same image.
        iou_thr: the least IoU.

    Returns:
        correct: ``(N,)`` bool, by detection.
        missed: ``(M,)`` bool, by ground truth.
    """
    ious = _ious(detections.bboxes, ground_truth.bboxes)
    ious[detections.labels[:, None] != ground_truth.labels[None, :]] = -1.0
    correct = np.zeros(len(detections.labels), dtype=bool)
    missed = np.ones(len(ground_truth.labels), dtype=bool)
    if not missed.size:
        return correct, missed
    for index in np.argsort(-detections.scores, kind="stable"):
        best = np.argmax(np.where(missed, ious[index], -1.0))
        if missed[best] and ious[index, best] >= iou_thr:
            correct[index], missed[best] = True, False
    return correct, missed


def draw_comparison(
    image_paths: Sequence[str | os.PathLike[str]],
    ground_truth: Sequence[Detections],
    columns: Mapping[str, Sequence[Detections]],
    class_names: Sequence[str],
    out_file: str | os.PathLike[str],
    score_thr: float = 0.3,
    *,
    iou_thr: float = 0.5,
    cell_px: int = 320,
) -> dict[str, Tally]:
    """Draw a grid of images: one row an image, first the ground truth, then a column for each detector.

    Args:
        image_paths: R images, at least one.
        ground_truth: R sets of boxes (``Detections.of_ground_truth``), one an image.
        columns: title of the column to R sets of detections, one an image.
        class_names: names by label.
        out_file: PNG to write; its folder is created if necessary.
        score_thr: detections that score less are neither drawn nor counted.
        iou_thr: least IoU of a correct detection with a ground truth of its class.
        cell_px: width of each image in the picture, px.

    Returns:
        The tally of each column over all the images.
    """
    if not image_paths:
        raise ValueError("no images to draw")
    for title, of_images in {"ground truth": ground_truth, **columns}.items():
        if len(of_images) != len(image_paths):
            raise ValueError(f"{title!r}: {len(of_images)} sets of boxes for {len(image_paths)} images")

    images = [_read(path) for path in image_paths]
    grid = _Grid(images, 1 + len(columns), cell_px)
    for row, (image, truth) in enumerate(zip(images, ground_truth, strict=True)):
        axes = grid.cell(row, 0, image)
        for bbox, label in zip(truth.bboxes, truth.labels, strict=True):
            _draw_box(axes, bbox, class_names[label], _TRUTH)
    boxes = sum(len(truth.labels) for truth in ground_truth)
    grid.title(0, "ground truth", f"{boxes} object{'s' * (boxes != 1)}")

    tallies: dict[str, Tally] = {}
    for column, (title, of_images) in enumerate(columns.items(), start=1):
        tally = Tally()
        for row, (image, truth, found) in enumerate(zip(images, ground_truth, of_images, strict=True)):
            shown = found.above(score_thr)
            correct, missed = match_detections(shown, truth, iou_thr)
            _draw_detections(grid.cell(row, column, image), shown, correct, truth, missed, class_names)
            tally += Tally(int(correct.sum()), int((~correct).sum()), int(missed.sum()))
        tallies[title] = tally
        grid.title(column, title, f"{tally.correct} correct, {tally.false} false, {tally.missed} missed")

    grid.foot(
        [style._replace(legend=style.legend.format(iou=iou_thr)) for style in (_CORRECT, _FALSE, _MISSED)],
        f"Detections that score at least {score_thr:g}; each box bears its class and score.",
    )
    grid.save(out_file)
    return tallies


class _Grid:
    """A figure laid out by the pixel; it is no part of pyplot, so the backend in use is left alone."""

    def __init__(self, images: Sequence[np.ndarray], columns: int, cell_px: int) -> None:
        self.cell_px = cell_px
        self.heights = [round(cell_px * image.shape[0] / image.shape[1]) for image in images]
        # A foot of legend and caption wants a certain width, however few the columns.
        self.width = max(columns * (cell_px + _GAP) + _GAP, 640)
        self.left = (self.width - columns * (cell_px + _GAP) + _GAP) // 2
        self.height = _TITLE + sum(self.heights) + _GAP * (len(images) - 1) + _FOOT
        self.figure = Figure(figsize=(self.width / _DPI, self.height / _DPI), dpi=_DPI, facecolor="white")

    def _x(self, column: int) -> int:
        return self.left + column * (self.cell_px + _GAP)

    def cell(self, row: int, column: int, image: np.ndarray) -> Axes:
        """Return axes with the image in them, in the image's px (its first pixel's corner is 0, 0)."""
        top = _TITLE + sum(self.heights[:row]) + _GAP * row
        bottom = self.height - top - self.heights[row]
        axes = self.figure.add_axes(
            (
                self._x(column) / self.width,
                bottom / self.height,
                self.cell_px / self.width,
                self.heights[row] / self.height,
            )
        )
        height, width = image.shape[:2]
        axes.imshow(image, extent=(0, width, height, 0), interpolation="bicubic", aspect="auto")
        axes.set_axis_off()
        return axes

    def title(self, column: int, title: str, below: str) -> None:
        x = (self._x(column) + self.cell_px / 2) / self.width
        self.figure.text(x, 1 - 18 / self.height, title, ha="center", va="center", size=14, weight="bold")
        self.figure.text(x, 1 - 39 / self.height, below, ha="center", va="center", size=10.5)

    def foot(self, styles: Sequence[_Style], caption: str) -> None:
        # The same dark bed as in the images; a tuple's lines are drawn one over the other.
        handles = [
            (
                Line2D([], [], color="black", linewidth=_LINE[0]),
                Line2D([], [], color=style.colour, linestyle=style.line, linewidth=_LINE[1]),
            )
            for style in styles
        ]
        self.figure.legend(  # type: ignore[call-overload]  # its stub knows no tuples of lines drawn over each other
            handles,
            [style.legend for style in styles],
            loc="center",
            bbox_to_anchor=(0.5, 42 / self.height),
            ncols=len(handles),
            frameon=False,
            fontsize=10.5,
        )
        self.figure.text(0.5, 15 / self.height, caption, ha="center", va="center", size=10.5)

    def save(self, out_file: str | os.PathLike[str]) -> None:
        out_file = Path(out_file)
        out_file.parent.mkdir(parents=True, exist_ok=True)
        # Without the version of matplotlib in the file, the same detections give the same bytes.
        self.figure.savefig(out_file, format="png", dpi=_DPI, metadata={"Software": None})


def _draw_detections(
    axes: Axes,
    shown: Detections,
    correct: np.ndarray,
    truth: Detections,
    missed: np.ndarray,
    class_names: Sequence[str],
) -> None:
    for bbox, label in zip(truth.bboxes[missed], truth.labels[missed], strict=True):
        _draw_box(axes, bbox, class_names[label], _MISSED, below=True)
    # Correct ones over false ones in the same place, and of each the surest on top.
    for index in np.lexsort((shown.scores, correct)):
        text = f"{class_names[shown.labels[index]]}: {shown.scores[index]:.2f}"
        _draw_box(axes, shown.bboxes[index], text, _CORRECT if correct[index] else _FALSE)


def _draw_box(axes: Axes, bbox: np.ndarray, text: str, style: _Style, below: bool = False) -> None:
    x1, y1, x2, y2 = bbox
    for colour, width, line in (("black", _LINE[0], "-"), (style.colour, _LINE[1], style.line)):
        # A dark bed under the colour keeps it apart from any photograph.
        axes.add_patch(
            Rectangle(
                (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width, linestyle=line
            )
        )
    right, bottom = axes.get_xlim()[1], axes.get_ylim()[0]
    # Near the right edge the text runs leftwards, so as not to end in the next image.
    leftwards = x1 > 0.8 * right
    x, y = np.clip(x2 if leftwards else x1, 0, right), np.clip(y2 if below else y1, 0, bottom)
    # Above the box, where it covers nothing of the object, if there is room. The name of a missed object
    # is inside at the bottom: a wrong detection of it has the top.
    upwards = below or y > 0.07 * bottom
    axes.annotate(
        text,
        (x, y),
        xytext=(-1 if leftwards else 1, 2 if upwards else -2),
        textcoords="offset points",
        ha="right" if leftwards else "left",
        va="bottom" if upwards else "top",
        color=style.ink,
        fontsize=9,
        weight="bold",
        bbox={"boxstyle": "square,pad=0.15", "facecolor": style.colour, "edgecolor": "none"},
    )


def _read(path: str | os.PathLike[str]) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoUs ``(N, M)`` of boxes ``(N, 4)`` and ``(M, 4)``."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(bottom_right - top_left, 0, None), axis=-1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return shared / np.maximum(union, 1e-9)
