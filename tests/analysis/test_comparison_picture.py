from __future__ import annotations

import sys
from pathlib import Path

from lad.analysis.pictures.detections import Detections, Tally, draw_comparison, match_detections

import matplotlib
import numpy as np
import pytest
from PIL import Image

TRUTH = Detections.of_ground_truth(np.array([[10, 10, 40, 40], [60, 60, 100, 100]]), np.array([1, 2]))


def found(*rows: tuple[float, ...]) -> Detections:
    """Return detections given as rows of x1, y1, x2, y2, score, label."""
    table = np.array(rows, dtype=float).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5])


@pytest.mark.parametrize(
    ("rows", "correct", "missed"),
    [
        ([], [], [True, True]),
        ([(10, 10, 40, 40, 0.9, 1), (62, 60, 100, 98, 0.4, 2)], [True, True], [False, False]),
        ([(10, 10, 40, 40, 0.9, 2)], [False], [True, True]),  # wrong class
        ([(10, 10, 40, 25, 0.9, 1)], [True], [False, True]),  # IoU exactly 1/2
        ([(10, 10, 40, 24, 0.9, 1)], [False], [True, True]),  # IoU just below
        # Of two boxes on one object the surer counts, wherever it stands and even if it fits worse.
        ([(10, 10, 40, 40, 0.5, 1), (10, 10, 40, 35, 0.8, 1)], [False, True], [False, True]),
        ([(0, 90, 9, 99, 0.9, 1)], [False], [True, True]),  # nothing there
        ([(5, 5, 5, 5, 0.9, 1)], [False], [True, True]),  # no area
    ],
)
def test_matching(rows: list[tuple[float, ...]], correct: list[bool], missed: list[bool]):
    got_correct, got_missed = match_detections(found(*rows), TRUTH)
    assert got_correct.tolist() == correct
    assert got_missed.tolist() == missed


def test_a_second_object_of_the_class_is_left_for_the_second_box():
    truth = Detections.of_ground_truth(np.array([[0, 0, 20, 20], [4, 0, 24, 20]]), np.array([3, 3]))
    correct, missed = match_detections(found((0, 0, 20, 20, 0.9, 3), (1, 0, 21, 20, 0.8, 3)), truth)
    assert correct.tolist() == [True, True]
    assert missed.tolist() == [False, False]


def test_without_ground_truth_all_is_false():
    correct, missed = match_detections(found((0, 0, 5, 5, 0.9, 0)), found())
    assert correct.tolist() == [False]
    assert missed.shape == (0,)


def test_lower_threshold_of_iou():
    correct, _ = match_detections(found((10, 10, 40, 24, 0.9, 1)), TRUTH, iou_thr=0.4)
    assert correct.tolist() == [True]


def test_fields_must_fit_together():
    with pytest.raises(ValueError, match="1 boxes with scores"):
        Detections(np.zeros((1, 4)), np.zeros(2), np.zeros(1))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two images of different shape, one of them grey."""
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(paths[0])
    Image.fromarray(noise[:64, :, 0]).save(paths[1])
    return paths


COLUMNS = {
    "student": [found((10, 10, 40, 40, 0.9, 2), (60, 60, 100, 100, 0.29, 2)), found((0, 0, 9, 9, 0.3, 0))],
    "distilled": [found((10, 10, 40, 40, 0.9, 1), (60, 60, 140, 100, 0.8, 2)), found()],
}


def test_picture(images: list[Path], tmp_path: Path):
    out = tmp_path / "new" / "comparison.png"
    backend, pyplot = matplotlib.rcParams._get("backend"), "matplotlib.pyplot" in sys.modules
    tallies = draw_comparison(images, [TRUTH, found()], COLUMNS, "0123", out, cell_px=300)

    assert tallies == {"student": Tally(0, 2, 2), "distilled": Tally(2, 0, 0)}
    assert matplotlib.rcParams._get("backend") == backend
    assert ("matplotlib.pyplot" in sys.modules) == pyplot
    picture = np.asarray(Image.open(out).convert("RGB")).astype(int)
    assert picture.shape[1] == 3 * 300 + 4 * 8
    assert picture.shape[0] > 300 + 150
    colours = {
        "green": (0, 158, 115),
        "vermilion": (213, 94, 0),
        "yellow": (240, 228, 66),
        "blue": (0, 114, 178),
    }
    columns = [slice(8 + i * 308, 308 + i * 308) for i in range(3)]
    seen = [
        {name for name, rgb in colours.items() if (np.abs(picture[60:500, x] - rgb).max(-1) < 6).sum() > 100}
        for x in columns
    ]
    assert seen == [{"blue"}, {"vermilion", "yellow"}, {"green"}]


def test_a_correct_box_is_seen_over_a_surer_false_one_in_the_same_place(tmp_path: Path):
    Image.fromarray(np.full((128, 128, 3), 255, dtype=np.uint8)).save(tmp_path / "white.png")
    truth = Detections.of_ground_truth(np.array([[20, 20, 100, 100]]), np.array([1]))
    rows = [(20, 20, 100, 100, 0.9, 2), (20, 20, 100, 100, 0.4, 1), (20, 20, 100, 100, 0.8, 3)]
    out = tmp_path / "comparison.png"
    draw_comparison([tmp_path / "white.png"], [truth], {"x": [found(*rows)]}, "0123", out, cell_px=300)
    picture = np.asarray(Image.open(out).convert("RGB")).astype(int)[60:350]
    green, vermilion = ((np.abs(picture - rgb).max(-1) < 6).sum() for rgb in ((0, 158, 115), (213, 94, 0)))
    # Of the false ones' labels, which are as wide, nothing is left but the edges of letters.
    assert green > 1000
    assert vermilion < green / 20


def test_same_picture_same_bytes(images: list[Path], tmp_path: Path):
    for name in ("one.png", "two.png"):
        draw_comparison(images, [TRUTH, found()], COLUMNS, "0123", tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_wrong_numbers_of_images(images: list[Path], tmp_path: Path):
    with pytest.raises(ValueError, match="'student': 2 sets of boxes for 1 images"):
        draw_comparison(images[:1], [TRUTH], {"student": COLUMNS["student"]}, "0123", tmp_path / "x.png")
    with pytest.raises(ValueError, match="no images"):
        draw_comparison([], [], {}, "0123", tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
