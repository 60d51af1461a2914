"""Objects cut out of the images of a COCO file."""

import json
import shutil

from lad.datasets.object_crops import cut_objects
from lad.errors import ConfigError, DataError

import mmcv
import numpy as np
import pytest
from fault_runs import run_script
from helpers import ROOT

#: Every pixel tells its row and column.
PIXELS = np.stack(np.broadcast_arrays(np.arange(40)[:, None], np.arange(60), 7), axis=-1).astype(np.uint8)


def one(number, box, **more):
    return dict(id=number, image_id=5, bbox=box, **more)


@pytest.fixture
def images(tmp_path):
    mmcv.imwrite(PIXELS, str(tmp_path / "images/sub/a.png"))
    return tmp_path / "images"


def content(*annotations):
    return dict(images=[dict(id=5, file_name="sub/a.png")], annotations=list(annotations))


def crop(tmp_path, number):
    return mmcv.imread(str(tmp_path / f"out/5/{number}.png"))


def test_boxes_are_cut_out_with_their_context_and_within_the_image(tmp_path, images):
    boxes = content(one(1, [10, 20, 8, 12]), one(2, [50.4, 30.2, 20, 20]), one(3, [0, 0, 60, 40]))
    assert cut_objects(boxes, images, tmp_path / "out") == 3
    assert np.array_equal(crop(tmp_path, 1), PIXELS[20:32, 10:18])
    assert np.array_equal(crop(tmp_path, 2), PIXELS[30:, 50:])  # whole pixels that it touches
    assert np.array_equal(crop(tmp_path, 3), PIXELS)
    cut_objects(content(one(4, [10, 20, 8, 12])), images, tmp_path / "wide/out", context=0.5)
    assert np.array_equal(crop(tmp_path / "wide", 4), PIXELS[14:38, 6:22])


def test_small_boxes_crowds_and_unsure_detections_are_left_out(tmp_path, images):
    boxes = content(
        one(1, [0, 0, 7.9, 20]),
        one(2, [0, 0, 20, 20], iscrowd=1),
        one(3, [0, 0, 20, 20], score=0.4),
        one(4, [0, 0, 20, 20], score=0.5),
        one(5, [0, 0, 20, 20]),
    )
    assert cut_objects(boxes, images, tmp_path / "out", min_score=0.5) == 2
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.png")) == ["4.png", "5.png"]


def test_interrupted_call_goes_on_and_finished_images_are_not_read_again(tmp_path, images):
    boxes = content(one(1, [0, 0, 20, 20]), one(2, [20, 0, 20, 20]))
    cut_objects(boxes, images, tmp_path / "out")
    (tmp_path / "out/5/2.png").unlink()
    done = []
    cut_objects(boxes, images, tmp_path / "out", progress=lambda *state: done.append(state))
    assert np.array_equal(crop(tmp_path, 2), PIXELS[:20, 20:40])
    assert done == [(1, 1)]
    (images / "sub/a.png").unlink()
    assert cut_objects(boxes, images, tmp_path / "out") == 2


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        (dict(context=-0.1), ConfigError, "context must be at least 0, got -0.1"),
        (dict(min_side=0), ConfigError, "min_side must be at least 1 pixel, got 0"),
        (dict(min_side=21), DataError, "no box is left to cut out"),
        (dict(images="elsewhere"), DataError, "image elsewhere/sub/a.png cannot be read"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(tmp_path, images, settings, kind, message):
    settings = dict(images=images) | settings
    with pytest.raises(kind, match=message) as caught:
        cut_objects(content(one(1, [0, 0, 20, 20])), out=tmp_path / "out", **settings)
    assert "\n" not in str(caught.value)


BOXES = [one(1, [0, 0, 20, 20]), one(2, [20, 0, 20, 20])]


def state(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("boxes", "settings", "says"),
    [
        ([one(1, [0, 0, 20, 20]), one(2, [20, 0, 20, 30])], {}, "crops of other boxes or images of the file"),
        (BOXES, dict(min_side=21), "no box is left"),
        (BOXES[:1], {}, "crops of other boxes or images of the file"),
        (BOXES, dict(context=0.5), "crops of another context"),
        (BOXES, dict(images="copy"), "crops of another image folder"),
    ],
)
def test_crops_of_something_else_are_neither_kept_nor_added_to(
    tmp_path, images, boxes, settings, says, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images, "copy")
    out = tmp_path / "out"
    cut_objects(content(*BOXES), images, out)
    before = state(out)
    with pytest.raises((ConfigError, DataError), match=says):
        cut_objects(content(*boxes), out=out, **dict(images=images) | settings)
    assert state(out) == before


def test_a_folder_that_holds_something_else_is_refused(tmp_path, images):
    (tmp_path / "out/5").mkdir(parents=True)
    (tmp_path / "out/5/1.png").write_bytes(b"an earlier version's")
    with pytest.raises(
        ConfigError, match=r"out holds something already, and no crops\.json that says of what"
    ):
        cut_objects(content(*BOXES), images, tmp_path / "out")
    (tmp_path / "out/crops.json").write_text("[")
    with pytest.raises(DataError, match=r"crops\.json is damaged: give another folder"):
        cut_objects(content(*BOXES), images, tmp_path / "out")
    assert (tmp_path / "out/5/1.png").read_bytes() == b"an earlier version's"


def test_a_wrong_image_folder_leaves_nothing_in_the_way(tmp_path, images):
    with pytest.raises(DataError, match="cannot be read"):
        cut_objects(content(*BOXES), tmp_path, tmp_path / "out")
    assert cut_objects(content(*BOXES), images, tmp_path / "out") == 2


@pytest.mark.parametrize("number", ["../5", "..", "a/b", "a\\b", "/5", "", "c:5"])
@pytest.mark.parametrize("kind", ["image", "annotation"])
def test_ids_that_lead_out_of_the_folder_are_refused(tmp_path, images, number, kind):
    boxes = content(one(1, [0, 0, 20, 20]))
    if kind == "image":
        boxes["images"][0]["id"] = boxes["annotations"][0]["image_id"] = number
    else:
        boxes["annotations"][0]["id"] = number
    before = state(tmp_path)
    with pytest.raises(DataError, match=f"{kind} id .* can be no name of a file"):
        cut_objects(boxes, images, tmp_path / "deep/out")
    assert state(tmp_path) == before


def test_ids_that_would_be_one_crop_are_refused(tmp_path, images):
    with pytest.raises(DataError, match="two annotations of image 5 have the id 1"):
        cut_objects(content(one(1, [0, 0, 20, 20]), one("1", [0, 0, 9, 9])), images, tmp_path / "out")
    boxes = content(one(1, [0, 0, 20, 20]))
    boxes["images"] *= 2
    with pytest.raises(DataError, match="two images have the same id"):
        cut_objects(boxes, images, tmp_path / "out")


def test_tool_cuts_and_tells_a_wrong_file_on_a_line_of_its_own(tmp_path, images):
    tool, file = ROOT / "tools/dataset_converters/cut_objects.py", tmp_path / "boxes.json"
    file.write_text(json.dumps(content(*BOXES)))
    done = run_script(tool, file, images, tmp_path / "out")
    assert done.returncode == 0, done.stdout
    assert "2 objects of 1 images" in done.stdout
    done = run_script(tool, file, images, tmp_path / "out", "--context", 1)
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1].startswith("error: ")
    file.write_text(json.dumps(content(one(1, [0, 0, 20]))))
    done = run_script(tool, file, images, tmp_path / "other")
    assert done.returncode == 2
    assert (
        "no bbox that is four finite numbers; the first is entry 0 (id 1), which has [0, 0, 20]"
        in done.stdout
    )
