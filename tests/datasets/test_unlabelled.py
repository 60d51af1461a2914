"""Images without labels: COCO files without annotations, folders, and what is trained and evaluated on them."""

import json

from lad.datasets.coco_checks import FileUse, check_coco
from lad.datasets.coco_file import read_coco
from lad.errors import ConfigError, DataError

import cv2
import numpy as np
import pytest
from mmdet.registry import DATASETS

IMAGES = [
    dict(id=7, file_name="a.png", width=40, height=30),
    dict(id=3, file_name="b/c.png", width=20, height=50),
]
PIPELINE = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomFlip", prob=1.0),
    dict(type="PackDetInputs"),
]


@pytest.fixture
def folder(tmp_path):
    for image in IMAGES:
        path = tmp_path / image["file_name"]
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.zeros((image["height"], image["width"], 3), np.uint8))
    return tmp_path


def build(folder, content=None, **settings):
    if content is not None:
        (folder / "images.json").write_text(json.dumps(content))
        settings["ann_file"] = str(folder / "images.json")
    config = dict(type="CocoDataset", labelled=False, data_prefix=dict(img=str(folder)), pipeline=PIPELINE)
    return DATASETS.build(config | settings)


def test_file_of_images_alone_gives_them_without_objects(folder):
    dataset = build(folder, dict(images=IMAGES), filter_cfg=dict(filter_empty_gt=True))
    assert [info["img_id"] for info in map(dataset.get_data_info, range(2))] == [7, 3]
    sample = dataset[1]["data_samples"]
    assert sample.ori_shape == (50, 20)
    assert len(sample.gt_instances.bboxes) == 0


def test_labels_in_the_file_are_not_read(folder):
    """Not even those that could not be read."""
    content = dict(images=IMAGES, annotations=[dict(image_id=7, bbox=None)])
    assert len(build(folder, content)[0]["data_samples"].gt_instances) == 0


def test_folder_is_enough(folder):
    dataset = build(folder)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    assert [(info["img_id"], info["width"], info["height"]) for info in infos] == [(1, 40, 30), (2, 20, 50)]
    assert dataset[1]["inputs"].shape == (3, 50, 20)


def test_small_images_are_left_out_in_training_alone(folder):
    rules = dict(filter_cfg=dict(min_size=30))
    assert len(build(folder, **rules)) == 1
    assert len(build(folder, **rules, test_mode=True)) == 2


def test_class_names_are_those_that_are_given(folder):
    assert build(folder).metainfo["classes"] is None
    assert build(folder, metainfo=dict(classes=("cat",))).metainfo["classes"] == ("cat",)
    digits = build(folder, type="DigitsDataset")
    assert digits.metainfo["classes"][3] == "3"


@pytest.mark.parametrize("labelled", ["no", 0, None])
def test_labelled_is_true_or_false(folder, labelled):
    with pytest.raises(ConfigError, match="labelled must be True or False"):
        build(folder, labelled=labelled)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (dict(annotations=[]), r"no list of images \(keys: annotations\)"),
        ({}, r"no list of images \(keys: none\)"),
        ([], "not a COCO annotation file"),
        (dict(images=3), "images"),
    ],
)
def test_file_without_images_is_refused(folder, content, message):
    with pytest.raises(DataError, match=message):
        build(folder, content)


def test_missing_and_empty_folders_are_refused(folder):
    with pytest.raises(DataError, match="no image folder"):
        build(folder, data_prefix=dict(img=str(folder / "nowhere")))
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="no image in"):
        build(folder, data_prefix=dict(img=str(folder / "empty")))


def test_with_labels_it_is_mmdetections_own(folder):
    """The same images and objects, in the same order, as the class that it replaces."""
    from mmdet.datasets import CocoDataset

    boxes = [dict(id=1, image_id=3, category_id=1, bbox=[1, 2, 10, 20], area=200, iscrowd=0)]
    content = dict(images=IMAGES, categories=[dict(id=1, name="cat")], annotations=boxes)
    settings = dict(metainfo=dict(classes=("cat",)), filter_cfg=dict(filter_empty_gt=True))
    dataset = build(folder, content, labelled=True, **settings)
    own = CocoDataset(
        ann_file=str(folder / "images.json"), data_prefix=dict(img=str(folder)), pipeline=PIPELINE, **settings
    )
    assert dataset.get_data_info(0) == own.get_data_info(0)
    assert len(dataset) == len(own) == 1


def test_check_of_the_file_asks_for_images_alone(folder):
    (folder / "images.json").write_text(json.dumps(dict(images=IMAGES)))
    content, problems = read_coco(folder / "images.json", annotated=False, labelled=False)
    assert not problems
    assert check_coco(content, "", use=FileUse(annotated=False, labelled=False)) == []
    assert [problem.kind for problem in check_coco(content, "")] == ["no_objects"]
