"""From Pascal VOC to COCO."""

import json

import pytest
from fault_runs import run_script
from helpers import ROOT
from pycocotools.coco import COCO

OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


@pytest.fixture
def voc(tmp_path):
    """Two images, of which one has two objects and one has none."""
    folder = tmp_path / "VOC"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    size = "<size><width>64</width><height>48</height></size>"
    objects = OBJECT.format("RBC", 1, 1, 10, 20) + OBJECT.format("WBC", 5, 6, 64, 48)
    (folder / "Annotations/first.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    (folder / "Annotations/second.xml").write_text(f"<annotation>{size}</annotation>")
    for name in ("first", "second"):
        (folder / f"JPEGImages/{name}.jpg").write_bytes(b"image")
    (folder / "ImageSets/Main/train.txt").write_text("first\nsecond\n")
    return folder


def convert(voc, *classes):
    out = voc.parent / "out"
    tool = ROOT / "tools/dataset_converters/voc_to_coco.py"
    return out, run_script(tool, voc, "--splits", "train", "--classes", *classes, "--out", out)


def test_boxes_begin_at_zero_and_include_their_last_pixel(voc):
    out, done = convert(voc, "RBC", "WBC")
    assert done.returncode == 0, done.stdout
    assert "train: 2 images, 2 objects" in done.stdout
    coco = COCO(str(out / "annotations/train.json"))
    assert [coco.anns[number]["bbox"] for number in (1, 2)] == [[0, 0, 10, 20], [4, 5, 60, 43]]
    assert [coco.anns[number]["category_id"] for number in (1, 2)] == [1, 2]
    assert coco.anns[2]["area"] == 60 * 43
    assert sorted(path.name for path in (out / "images").iterdir()) == ["first.jpg", "second.jpg"]
    assert json.loads((out / "annotations/train.json").read_text())["images"][1]["width"] == 64


def test_unnamed_class_is_one_line(voc):
    _, done = convert(voc, "RBC")
    assert done.returncode == 2
    assert (
        done.stdout.strip().splitlines()[-1].endswith("has an object 'WBC', which --classes does not name.")
    )
