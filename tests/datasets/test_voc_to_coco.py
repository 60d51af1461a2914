"""From Pascal VOC to COCO."""

import json
import shutil

from lad.datasets.voc import convert_voc, voc_classes, voc_names
from lad.errors import ConfigError, DataError

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


def convert(voc, *classes, force=False):
    out = voc.parent / "out"
    tool = ROOT / "tools/dataset_converters/voc_to_coco.py"
    options = ["--force"] if force else []
    return out, run_script(tool, voc, "--splits", "train", "--classes", *classes, "--out", out, *options)


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


SIZE = "<size><width>64</width><height>48</height></size>"
BOX = OBJECT.format("RBC", 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no XML file"),
        (f"<annotation>{SIZE}", "is no XML file"),
        ('<?xml version="1.0" encoding="none"?><a/>', "is no XML file"),
        ("<annotation></annotation>", "size/width of the image is absent"),
        (f"<annotation>{SIZE.replace('64', '64.5')}</annotation>", "size/width of the image is 64.5: it must be"),
        (f"<annotation>{SIZE.replace('48', '0')}</annotation>", "size/height of the image is 0: it must be"),
        (f"<annotation>{SIZE.replace('48', 'inf')}</annotation>", "size/height of the image is 'inf', no number"),
        (f"<annotation>{SIZE}<object><name>RBC</name></object></annotation>", "xmin of object 1 (RBC) is absent"),
        (f"<annotation>{SIZE}{BOX.replace('2', 'abc')}</annotation>", "ymin of object 1 (RBC) is 'abc', no number"),
        (f"<annotation>{SIZE}{BOX.replace('2', 'nan')}</annotation>", "ymin of object 1 (RBC) is 'nan', no number"),
        (f"<annotation>{SIZE}{BOX}{BOX.replace('>1<', '>9<')}</annotation>",
         "the box of object 2 (RBC) ends before it begins (x 9 to 3, y 2 to 4)"),
        (f"<annotation>{SIZE}{BOX.replace('>2<', '>5<')}</annotation>", "ends before it begins"),
        (f"<annotation>{SIZE}<object></object></annotation>", "object 1 has no name"),
    ],
)  # fmt: skip
def test_annotations_that_cannot_be_used_name_their_file_in_one_line(voc, text, says):
    file = voc / "Annotations/second.xml"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        convert_voc(voc, ["first", "second"], ["RBC", "WBC"])
    assert str(caught.value).startswith(f"{file}")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_may_be_written_with_a_point_and_boxes_may_be_one_pixel(voc):
    text = f"<annotation>{SIZE.replace('64', '64.0')}{OBJECT.format('RBC', 7, 8, 7, 8)}</annotation>"
    (voc / "Annotations/second.xml").write_text(text)
    content = convert_voc(voc, ["second"], ["RBC"])
    assert content["images"][0]["width"] == 64
    assert isinstance(content["images"][0]["width"], int)
    assert content["annotations"][0]["bbox"] == [6, 7, 1, 1]


def test_classes_are_read_from_whole_annotations_only(voc):
    assert voc_classes(voc) == ["RBC", "WBC"]
    (voc / "Annotations/third.xml").write_text("<annotation")
    with pytest.raises(DataError, match=r"third\.xml is no XML file"):
        voc_classes(voc)


def test_a_class_that_is_named_twice_is_refused(voc):
    with pytest.raises(ConfigError, match="--classes names 'RBC' more than once"):
        convert_voc(voc, ["first"], ["RBC", "WBC", "RBC"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"\n \n", "names no image"),
        (b"../x\n", "names '../x', which is not in the folder"),
        (b"\xff\n", "is no text"),
    ],
)
def test_lists_that_name_no_image_of_the_folder_are_refused(voc, text, says):
    (voc / "ImageSets/Main/train.txt").write_bytes(text)
    with pytest.raises(DataError, match=rf"train\.txt {says}"):
        voc_names(voc, "train")


def test_images_keep_their_subfolders(voc):
    for name in "ab":
        for kind in ("Annotations", "JPEGImages"):
            (voc / kind / name).mkdir()
        shutil.copy(voc / "Annotations/second.xml", voc / f"Annotations/{name}/x.xml")
        (voc / f"JPEGImages/{name}/x.png").write_text(name)
    (voc / "ImageSets/Main/train.txt").write_text("a/x\nb/x\n")
    out, done = convert(voc, "RBC")
    assert done.returncode == 0, done.stdout
    images = json.loads((out / "annotations/train.json").read_text())["images"]
    assert [one["file_name"] for one in images] == ["a/x.png", "b/x.png"]
    assert [(out / "images" / one["file_name"]).read_text() for one in images] == ["a", "b"]


def test_existing_files_are_replaced_when_asked_and_equal_images_are_no_obstacle(voc):
    classes = ("RBC", "WBC")
    out = voc.parent / "out"
    (out / "annotations").mkdir(parents=True)
    (out / "images").mkdir()
    (out / "images/second.jpg").write_bytes(b"mine")
    _, done = convert(voc, *classes)
    assert done.returncode == 2
    assert "images/second.jpg exists and is another image: give another --out, or --force" in done.stdout
    assert [path.name for path in (out / "images").iterdir()] == ["second.jpg"]
    (out / "images/second.jpg").write_bytes(b"image")
    (out / "annotations/train.json").write_text("mine")
    _, done = convert(voc, *classes)
    assert done.returncode == 2
    assert "annotations/train.json exists: give another --out, or --force" in done.stdout
    assert (out / "annotations/train.json").read_text() == "mine"
    (out / "annotations/train.json").unlink()
    assert convert(voc, *classes)[1].returncode == 0
    (out / "images/first.jpg").write_bytes(b"mine")
    assert convert(voc, *classes, force=True)[1].returncode == 0
    assert (out / "images/first.jpg").read_bytes() == b"image"


def test_a_missing_image_is_found_before_anything_is_written(voc):
    (voc / "JPEGImages/second.jpg").unlink()
    out, done = convert(voc, "RBC", "WBC")
    assert done.returncode == 2
    assert "JPEGImages/second of any known ending" in done.stdout
    assert not out.exists()
