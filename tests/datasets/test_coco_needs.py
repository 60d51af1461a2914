"""What tools need of the entries of a COCO file."""

import json

from lad.datasets.coco_needs import BOX, ID, LENGTH, NUMBER, TEXT, read_needed
from lad.errors import DataError

import pytest

NEEDS = dict(
    images=dict(id=ID, file_name=TEXT, width=LENGTH),
    annotations=dict(bbox=BOX, score=NUMBER.or_none()),
)


def write(tmp_path, image=None, annotation=None, **more):
    images = [
        dict(id=1, file_name="a.png", width=9),
        dict(id="x", file_name="b.png", width=9.5) | (image or {}),
    ]
    boxes = [dict(bbox=[0, 0.5, 1, 2]), dict(id=8, bbox=[0, 0, 1, 1], score=1) | (annotation or {})]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(dict(images=images, annotations=boxes, **more)))
    return path


def test_a_file_that_has_what_is_needed_is_read(tmp_path):
    content = read_needed(write(tmp_path), NEEDS)
    assert [one["id"] for one in content["images"]] == [1, "x"]
    assert content["categories"] == []


@pytest.mark.parametrize(
    ("image", "annotation", "says"),
    [
        (
            dict(id=None),
            {},
            "1 of 2 images have no id that is a number or a text; the first is entry 1, which has None",
        ),
        (dict(id=True), {}, "no id that is a number or a text"),
        (dict(file_name=3), {}, "no file_name that is a text; the first is entry 1 (id x), which has 3"),
        (dict(width=0), {}, "no width that is a number above 0"),
        (dict(width="9"), {}, "no width that is a number above 0"),
        (
            {},
            dict(bbox=[0, 0, 1]),
            "no bbox that is four finite numbers; the first is entry 1 (id 8), which has [0, 0",
        ),
        ({}, dict(bbox=[0, 0, 1, float("nan")]), "no bbox that is four finite numbers"),
        ({}, dict(bbox=[0, 0, 1, 10**400]), "no bbox that is four finite numbers"),
        ({}, dict(bbox="1234"), "no bbox that is four finite numbers"),
        ({}, dict(score="0.5"), "no score that is a finite number"),
        ({}, dict(score=None), "no score that is a finite number"),
    ],
)
def test_an_entry_without_what_is_needed_is_named_in_one_line(tmp_path, image, annotation, says):
    with pytest.raises(DataError) as caught:
        read_needed(write(tmp_path, image, annotation), NEEDS)
    assert str(caught.value).startswith(f"{tmp_path}/boxes.json: 1 of ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_that_are_needed_must_be_there(tmp_path):
    with pytest.raises(DataError, match="it has no list of categories"):
        read_needed(write(tmp_path), NEEDS | dict(categories={}))
    assert read_needed(write(tmp_path, categories=[]), NEEDS | dict(categories={}))["categories"] == []


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"images": [', b"\xff\xfe{}", b"{}", b'{"images": [], "annotations": [3]}']
)
def test_what_is_no_coco_file_is_one_line(tmp_path, text):
    path = tmp_path / "boxes.json"
    path.write_bytes(text)
    with pytest.raises(DataError, match=r"boxes\.json: not a") as caught:
        read_needed(path, NEEDS)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"none\.json: there is no such annotation file"):
        read_needed(tmp_path / "none.json", NEEDS)
