"""The video of a window that pans over photographs, and its boxes."""

import json

from lad.datasets.panning_video import PanningParameters, Shot, boxes_in_window, make_video, plan_shots
from lad.errors import ConfigError, DataError

import mmcv
import numpy as np
import pytest
from fault_runs import run_script
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

SMALL = PanningParameters(frames=9, width=32, height=24, shot=4, brightness=(1.0, 1.0), seed=3)


@pytest.fixture
def photographs(tmp_path):
    """Two grey photographs, each with a bright square, and the squares' boxes."""
    content = dict(images=[], annotations=[], categories=[dict(id=7, name="square")])
    for number, (width, height, left, top) in enumerate([(160, 120, 40, 30), (120, 160, 50, 70)], 1):
        pixels = np.full((height, width, 3), 60, np.uint8)
        pixels[top : top + 40, left : left + 40] = 220
        mmcv.imwrite(pixels, str(tmp_path / f"{number}.png"))
        content["images"].append(dict(id=number, file_name=f"{number}.png", width=width, height=height))
        content["annotations"].append(
            dict(id=number, image_id=number, category_id=7, bbox=[left, top, 40, 40], area=1600, iscrowd=0)
        )
    return content, tmp_path


def test_boxes_are_moved_scaled_and_clipped():
    boxes = np.array([[10.0, 20, 20, 10], [0, 0, 12, 100], [100, 100, 5, 5]])
    found, kept = boxes_in_window(boxes, np.array([10.0, 10, 40, 30]), (80, 60), min_visible=0.2)
    # Twice as large, from (10, 10) on; of the second only 2 of 12 columns are in the window, the third is outside.
    np.testing.assert_allclose(found, [[0, 20, 40, 20]])
    assert kept.tolist() == [0]
    found, kept = boxes_in_window(boxes, np.array([10.0, 10, 40, 30]), (80, 60), min_visible=0.0)
    np.testing.assert_allclose(found, [[0, 20, 40, 20], [0, 0, 4, 60]])
    assert kept.tolist() == [0, 1]


@given(
    arrays(float, (5, 4), elements=st.floats(0.5, 100)),
    arrays(float, 4, elements=st.floats(1, 100)),
    st.floats(0, 1),
)
def test_boxes_are_never_outside_of_the_frame(boxes, window, min_visible):
    found, kept = boxes_in_window(boxes, window, (64, 48), min_visible)
    assert (found[:, :2] >= 0).all()
    assert (found[:, 2:] >= 1).all()
    assert (found[:, :2] + found[:, 2:] <= np.array([64, 48]) + 1e-9).all()
    assert len(found) == len(kept)


def test_window_moves_evenly_and_brightness_with_it():
    shot = Shot(0, np.array([0.0, 0, 10, 10]), np.array([8.0, 4, 10, 10]), (0.5, 1.5), 5)
    window, brightness = shot.at(2)
    assert window.tolist() == [4, 2, 10, 10]
    assert brightness == 1.0
    assert shot.at(4)[0].tolist() == [8, 4, 10, 10]


def test_shots_have_all_frames_and_windows_within_the_photographs():
    sizes = [(160, 120), (120, 160), (64, 300)]
    shots = plan_shots(sizes, PanningParameters(frames=1000, shot=7, width=32, height=24, zoom=(1.0, 3.0)))
    assert sum(shot.frames for shot in shots) == 1000
    for shot in shots:
        for window in (shot.begin, shot.end):
            assert (window[:2] >= 0).all()
            assert (window[:2] + window[2:] <= np.array(sizes[shot.image]) + 1e-9).all()
            assert window[2] / window[3] == pytest.approx(32 / 24)
    # Each once before any comes again.
    assert sorted(shot.image for shot in shots[:3]) == [0, 1, 2]


def test_boxes_are_where_the_pixels_are(photographs):
    content, folder = photographs
    count = make_video(content, folder, folder / "out", SMALL)
    made = json.loads((folder / "out/annotations.json").read_text())
    video = mmcv.VideoReader(str(folder / "out/video.mp4"))
    assert len(video) == len(made["images"]) == 9
    assert len(made["annotations"]) == count > 0
    assert made["categories"] == content["categories"]
    for one in made["annotations"]:
        left, top, width, height = (round(value) for value in one["bbox"])
        frame = video[one["image_id"] - 1][..., 1].astype(int)
        inside = frame[top + 2 : top + height - 2, left + 2 : left + width - 2]
        if inside.size:
            assert inside.mean() > 190
        outside = np.ones(frame.shape, bool)
        outside[max(top - 2, 0) : top + height + 2, max(left - 2, 0) : left + width + 2] = False
        if outside.any():
            assert frame[outside].mean() < 80


def test_same_seed_same_bytes(photographs):
    content, folder = photographs
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_video(
            content, folder, folder / name, PanningParameters(frames=5, width=32, height=24, seed=seed)
        )
    read = [
        [(folder / name / file).read_bytes() for file in ("video.mp4", "annotations.json")] for name in "abc"
    ]
    assert read[0] == read[1]
    assert read[0][1] != read[2][1]


def test_brightness_changes_the_pixels_alone(photographs):
    content, folder = photographs
    for name, brightness in (("dark", (0.5, 0.5)), ("plain", (1.0, 1.0))):
        parameters = PanningParameters(frames=2, width=32, height=24, brightness=brightness)
        make_video(content, folder, folder / name, parameters)
    dark, plain = (
        mmcv.VideoReader(str(folder / name / "video.mp4"))[0].astype(int) for name in ("dark", "plain")
    )
    assert abs(dark - plain / 2).mean() < 3
    boxes = [
        json.loads((folder / name / "annotations.json").read_text())["annotations"]
        for name in ("dark", "plain")
    ]
    assert boxes[0] == boxes[1]


def test_nothing_is_replaced_without_being_asked(photographs):
    content, folder = photographs
    (folder / "out").mkdir()
    (folder / "out/video.mp4").write_text("mine")
    with pytest.raises(ConfigError, match="exists: give another folder, or --force"):
        make_video(content, folder, folder / "out", SMALL)
    assert (folder / "out/video.mp4").read_text() == "mine"
    make_video(content, folder, folder / "out", SMALL, force=True)
    assert not list((folder / "out").glob(".*"))


def test_unreadable_photograph_leaves_nothing_behind(photographs):
    content, folder = photographs
    for number in (1, 2):
        (folder / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read"):
        make_video(content, folder, folder / "out", SMALL)
    assert not list((folder / "out").iterdir())


def test_file_without_boxes_is_refused(photographs):
    content, folder = photographs
    with pytest.raises(DataError, match="nothing to film"):
        make_video(dict(content, annotations=[]), folder, folder / "out", SMALL)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(frames=0),
        dict(width=33),
        dict(zoom=(0.5, 1.0)),
        dict(zoom=(2.0, 1.5)),
        dict(brightness=(0.0, 1.0)),
        dict(min_visible=1.5),
        dict(fps=0.0),
    ],
)
def test_impossible_parameters_are_refused(wrong):
    with pytest.raises(ConfigError):
        PanningParameters(**wrong)


def test_tool_writes_a_video(photographs):
    content, folder = photographs
    (folder / "boxes.json").write_text(json.dumps(content))
    tool = ROOT / "tools/dataset_converters/make_video.py"
    done = run_script(tool, folder / "boxes.json", folder, folder / "out", "--frames", 3, "--size", 32, 24)
    assert done.returncode == 0, done.stdout
    assert "3 frames with" in done.stdout
    assert len(mmcv.VideoReader(str(folder / "out/video.mp4"))) == 3


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("[]", (), "error: {file}: not a COCO annotation file: it holds a list, not a dict."),
        ('{"images": [', (), "error: {file}: not a JSON file"),
        ('{"images": [{"id": 1, "file_name": "1.png", "width": 0, "height": 9}], "annotations": [], "categories": []}',
         (), "error: {file}: 1 of 1 images have no width that is a number above 0"),
        ('{"images": [], "annotations": [], "categories": []}', (), "error: no image of the file has a box"),
        ("{}", ("--seed", -1), "make_video.py: error: --seed must be at least 0, got -1"),
    ],
)  # fmt: skip
def test_tool_tells_what_it_cannot_use_in_one_line(tmp_path, text, options, says):
    file = tmp_path / "boxes.json"
    file.write_text(text)
    tool = ROOT / "tools/dataset_converters/make_video.py"
    done = run_script(tool, file, tmp_path, tmp_path / "out", "--frames", 3, "--size", 32, 24, *options)
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1].startswith(says.format(file=file))
    assert not (tmp_path / "out").exists()
