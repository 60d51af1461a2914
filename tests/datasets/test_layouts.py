"""Folders of data in COCO's, YOLO's and Pascal VOC's layout are found and read."""

import json

from lad.datasets.layouts import find_data
from lad.datasets.voc import convert_voc
from lad.datasets.yolo import convert_yolo, read_yolo
from lad.errors import ConfigError, DataError

import pytest
from PIL import Image

XML = """<annotation><size><width>40</width><height>20</height></size>
<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object></annotation>"""


def image(file, size=(40, 20)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(file)
    return file


def coco(file, name="a.png"):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(dict(images=[dict(id=1, file_name=name)], annotations=[], categories=[])))
    return file


def yolo(folder, names="[cat, dog]", train="images/train", val="images/val", root=""):
    (folder / "data.yaml").parent.mkdir(parents=True, exist_ok=True)
    (folder / "data.yaml").write_text(f"path: {root}\ntrain: {train}\nval: {val}\nnames: {names}\n")
    for split in ("train", "val"):
        image(folder / f"images/{split}/a.png")
        (folder / f"labels/{split}").mkdir(parents=True)
    (folder / "labels/train/a.txt").write_text("1 0.5 0.5 0.5 1.0\n\n0 0.0 0.0 0.25 0.0 0.25 0.5\n")


def test_yolo_boxes_are_in_pixels_and_polygons_become_their_boxes(tmp_path):
    yolo(tmp_path)
    layout = find_data(tmp_path, tmp_path / "out")
    assert layout.kind == "YOLO"
    content = json.loads(layout.train.annotations.read_text())
    assert content["categories"] == [dict(id=1, name="cat"), dict(id=2, name="dog")]
    assert [(one["category_id"], one["bbox"], one["area"]) for one in content["annotations"]] == [
        (2, [10.0, 0.0, 20.0, 20.0], 400.0),
        (1, [0.0, 0.0, 10.0, 10.0], 100.0),
    ]
    assert content["images"] == [dict(id=1, file_name="a.png", width=40, height=20)]
    assert layout.train.images == tmp_path / "images/train"
    # No file of labels: an image without objects.
    assert json.loads(layout.val.annotations.read_text())["annotations"] == []


@pytest.mark.parametrize("names", ["[cat, dog]", "{0: cat, 1: dog}", "{1: dog, 0: cat}"])
def test_yolo_names_are_a_list_or_numbered(tmp_path, names):
    yolo(tmp_path, names)
    assert read_yolo(tmp_path / "data.yaml")[0] == ["cat", "dog"]


def test_yolo_folders_are_relative_to_path_or_as_roboflow_writes_them(tmp_path):
    yolo(tmp_path / "one", train="../images/train", val="../images/val")
    assert read_yolo(tmp_path / "one/data.yaml")[1]["train"] == tmp_path / "one/images/train"
    yolo(tmp_path / "two", root=str(tmp_path / "one"))
    assert read_yolo(tmp_path / "two/data.yaml")[1]["val"] == tmp_path / "one/images/val"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 1 1", "line 2 has class 2; there are 2, from 0 on"),
        ("0.5 0.5 0.5 1 1", "line 2 has class 0.5"),
        ("0 0.5 0.5 1", "line 2 must be class, x, y, width and height"),
        ("0 0.5 0.5 1 nan", "line 2 must be class"),
        ("0 0.5 a 1 1", "line 2 has something that is no number"),
        ("0 0 0 1 1 1 0 1", "line 2 must be class"),
    ],
)
def test_a_wrong_line_of_labels_is_named(tmp_path, line, message):
    yolo(tmp_path)
    (tmp_path / "labels/train/a.txt").write_text(f"0 0.5 0.5 1 1\n{line}\n")
    with pytest.raises(ConfigError, match=rf"a\.txt: {message}"):
        convert_yolo(tmp_path / "images/train", ["cat", "dog"])


def test_yolo_descriptions_without_what_is_needed_are_refused(tmp_path):
    yolo(tmp_path, names="{1: cat}")
    with pytest.raises(ConfigError, match="names must be numbered from 0 on"):
        find_data(tmp_path, tmp_path / "out")
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: images/train\n")
    with pytest.raises(ConfigError, match=r"data\.yaml has no val"):
        find_data(tmp_path, tmp_path / "out")
    (tmp_path / "data.yaml").write_text("train: [a")
    with pytest.raises(ConfigError, match=r"data\.yaml cannot be read"):
        find_data(tmp_path, tmp_path / "out")


def test_voc_folders_are_read_with_the_suffixes_of_their_images(tmp_path):
    for name, label, suffix in (("a", "dog", ".png"), ("b", "cat", ".jpg")):
        image(tmp_path / f"JPEGImages/{name}{suffix}")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / f"Annotations/{name}.xml").write_text(XML.format(name=label))
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a 1\nb -1\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("b\n")
    layout = find_data(tmp_path, tmp_path / "out")
    content = json.loads(layout.train.annotations.read_text())
    assert layout.kind == "VOC"
    assert [one["name"] for one in content["categories"]] == ["cat", "dog"]
    assert [one["file_name"] for one in content["images"]] == ["a.png", "b.jpg"]
    assert content["annotations"][0]["bbox"] == [0.0, 0.0, 10.0, 20.0]
    assert [one["category_id"] for one in content["annotations"]] == [2, 1]
    with pytest.raises(ConfigError, match="which --classes does not name"):
        convert_voc(tmp_path, ["a"], ["cat"])


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/train.json", "images"),
        ("annotations/train.json", "train"),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/train.json", "images/train"),
        ("train/_annotations.coco.json", "train"),
        ("annotations/train.json", "."),
    ],
)
def test_coco_annotations_and_their_images_are_found(tmp_path, annotations, images):
    coco(tmp_path / annotations)
    coco(tmp_path / annotations.replace("train", "val"))
    for split in ("train", "val"):
        image(tmp_path / images.replace("train", split) / "a.png")
    layout = find_data(tmp_path, tmp_path / "out")
    assert layout.train.annotations == tmp_path / annotations
    assert layout.train.images == tmp_path / images
    assert layout.val.images == tmp_path / images.replace("train", "val")
    assert not (tmp_path / "out").exists()


def test_captions_and_keypoints_beside_the_boxes_are_passed_over(tmp_path):
    for kind in ("captions", "instances", "person_keypoints"):
        for split in ("train", "val"):
            coco(tmp_path / f"annotations/{kind}_{split}2017.json")
    image(tmp_path / "train2017/a.png")
    image(tmp_path / "val2017/a.png")
    assert find_data(tmp_path, tmp_path / "out").val.annotations.name == "instances_val2017.json"


def test_what_is_not_there_or_not_clear_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no folder"):
        find_data(tmp_path / "gone", tmp_path / "out")
    with pytest.raises(ConfigError, match="none was found: name it with --train-annotations"):
        find_data(tmp_path, tmp_path / "out")
    coco(tmp_path / "annotations/train_a.json")
    coco(tmp_path / "annotations/train_b.json")
    with pytest.raises(ConfigError, match=r"train_a\.json, .*train_b\.json could be meant"):
        find_data(tmp_path, tmp_path / "out")
    (tmp_path / "annotations/train_b.json").unlink()
    with pytest.raises(DataError, match=r"its first image, 'a\.png', is not in"):
        find_data(tmp_path, tmp_path / "out")
