"""Everything that is wrong with a data set is said in one pass, with file and id."""

import copy
import json
import logging
import re
import runpy
import sys

from lad.cli.checks import bad_data_policy, check_annotations
from lad.datasets import LoadCheckedImageFromFile
from lad.datasets.bad_images import check_image_loading
from lad.datasets.coco_checks import FileUse, check_coco
from lad.datasets.coco_file import read_coco
from lad.datasets.configured import coco_data
from lad.datasets.images import check_image, image_problems, leaves_folder
from lad.errors import ConfigError, DataError

import cv2
import numpy as np
import pytest
from helpers import ROOT
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from PIL import ExifTags, Image

CLASSES = ("cat", "dog")


def coco(images=2):
    """Two images of 40x30, each with one box."""
    return dict(
        images=[dict(id=n, file_name=f"{n}.jpg", width=40, height=30) for n in range(1, images + 1)],
        annotations=[
            dict(id=10 + n, image_id=n, category_id=1, bbox=[1, 2, 10, 20], area=200, iscrowd=0)
            for n in range(1, images + 1)
        ],
        categories=[dict(id=1, name="cat"), dict(id=2, name="dog")],
    )


def changed(change):
    content = coco()
    change(content)
    return content


def put(section, number=0, **values):
    return lambda content: content[section][number].update(values)


def drop(section, key):
    return lambda content: content[section][0].pop(key)


NAN = float("nan")
MISTAKES = [
    ("zero_size_image", "image 1", put("images", width=0)),
    ("zero_size_image", "image 1", put("images", height=-3)),
    ("zero_size_image", "image 1", put("images", height=NAN)),
    ("missing_key", "image 1", drop("images", "file_name")),
    ("missing_key", "image 1", drop("images", "width")),
    ("missing_key", "", drop("images", "id")),
    ("missing_key", "annotation 11 of image 1", drop("annotations", "area")),
    ("missing_key", "annotation 11 of image None", drop("annotations", "image_id")),
    ("duplicate_image_id", "image 2", put("images", id=2)),
    ("duplicate_annotation_id", "annotation 12", put("annotations", id=12)),
    ("duplicate_category_id", "category 2", put("categories", id=2)),
    ("duplicate_image", "", put("images", file_name="2.jpg")),
    ("path_outside", "image 1", put("images", file_name="../1.jpg")),
    ("path_outside", "image 1", put("images", file_name="/1.jpg")),
    ("zero_size_box", "annotation 11 of image 1", put("annotations", bbox=[1, 2, 0, 20])),
    ("zero_size_box", "annotation 11 of image 1", put("annotations", bbox=[1, 2, 10, -20])),
    ("not_finite_box", "annotation 11 of image 1", put("annotations", bbox=[1, 2, NAN, 20])),
    ("not_finite_box", "annotation 11 of image 1", put("annotations", bbox=[1, 2, float("inf"), 20])),
    ("not_a_box", "annotation 11 of image 1", put("annotations", bbox=[1, 2, 10])),
    ("not_a_box", "annotation 11 of image 1", put("annotations", bbox=[1, 2, "10", 20])),
    ("box_outside", "annotation 11 of image 1", put("annotations", bbox=[31.5, 2, 10, 20])),
    ("box_outside", "annotation 11 of image 1", put("annotations", bbox=[-2, 2, 10, 20])),
    ("zero_area", "annotation 11 of image 1", put("annotations", area=0)),
    ("tiny_box", "annotation 11 of image 1", put("annotations", bbox=[1, 2, 0.5, 20])),
    ("tiny_box", "annotation 11 of image 1", put("annotations", bbox=[1, 2, 10, 0.99])),
    ("unknown_category", "annotation 11 of image 1", put("annotations", category_id=7)),
    ("unknown_image", "annotation 11 of image 9", put("annotations", image_id=9)),
    ("absent_class", "", put("categories", number=1, name="cow")),
    ("no_objects", "", lambda content: content["annotations"].clear()),
    ("no_images", "", lambda content: (content["annotations"].clear(), content["images"].clear())),
]


@pytest.mark.parametrize(("kind", "where", "change"), MISTAKES)
def test_each_mistake_in_annotations_is_found_and_located(kind, where, change):
    problems = check_coco(changed(change), "train.json", CLASSES)
    found = [problem for problem in problems if problem.kind == kind]
    assert [problem.where for problem in found] == [where]
    assert str(found[0]).startswith("train.json: ")
    # A duplicated or missing id also leaves entries without partner; nothing else does.
    if "id" not in kind and kind != "missing_key":
        assert problems == found


def test_good_annotations_have_no_problems():
    assert check_coco(coco(), "train.json", CLASSES) == []
    # Rounding of COCO's own boxes; crowds; images without objects beside others.
    content = coco(3)
    content["annotations"].pop()
    content["annotations"][0].update(bbox=[30.5, 2, 10, 20], iscrowd=1)
    assert check_coco(content, "train.json") == []


def test_classes_in_another_order_than_the_file_are_found(tmp_path):
    (problem,) = check_coco(coco(), "train.json", ("dog", "cat"))
    assert (problem.kind, problem.fatal) == ("class_order", True)
    assert "label 0 is 'cat' by the file's categories (cat, dog) and 'dog' by the config's" in problem.message
    # So it is: the boxes are cats', and label 0 is called dog.
    (tmp_path / "a.json").write_text(json.dumps(coco()))
    dataset = CocoDataset(
        ann_file=str(tmp_path / "a.json"), data_prefix=dict(img=""), metainfo=dict(classes=("dog", "cat"))
    )
    assert dataset.get_data_info(0)["instances"][0]["bbox_label"] == 0


def test_absent_class_is_fatal_and_its_effect_on_the_labels_is_told():
    content = coco()
    content["categories"].pop()
    kinds = [(p.kind, p.fatal) for p in check_coco(content, "", ("cat", "dog"))]
    assert kinds == [("absent_class", True)]
    kinds = [(p.kind, p.fatal) for p in check_coco(content, "", ("dog", "cat"))]
    assert kinds == [("class_order", True), ("absent_class", True)]


def test_data_sets_that_read_their_files_in_their_own_way_are_passed_over():
    paths = dict(ann_file="a.json", data_root="data")
    assert coco_data(dict(type="LVISV1Dataset", **paths)) is None
    assert coco_data(dict(type="XMLDataset", **paths)) is None
    assert coco_data(dict(type="CocoDataset", **paths)).classes[0] == "person"
    assert coco_data(dict(type="CocoDataset", **paths, backend_args=dict(backend="petrel"))) is None


def test_what_mmdetection_does_with_what_is_not_fatal(tmp_path):
    """Problems that are not fatal are left out by MMDetection; those that are not left out are fatal."""
    for kind, _, change in MISTAKES:
        content = changed(change)
        fatal = {p.kind: p.fatal for p in check_coco(content, "", CLASSES)}[kind]
        path = tmp_path / "a.json"
        path.write_text(json.dumps(content))
        # These change no box. (The size that the file gives is used to filter images alone.)
        if fatal or kind in (
            "path_outside",
            "duplicate_image",
            "box_outside",
            "zero_size_image",
            "absent_class",
        ):
            continue
        dataset = CocoDataset(
            ann_file=str(path), data_prefix=dict(img=""), metainfo=dict(classes=CLASSES), serialize_data=False
        )
        boxes = [instance["bbox"] for item in dataset.data_list for instance in item["instances"]]
        assert boxes == [[1, 2, 11, 22]], kind


def test_every_problem_of_a_file_is_listed_in_one_pass():
    content = coco()
    for _, _, change in MISTAKES[14:18]:
        content["annotations"].append(dict(coco()["annotations"][0], id=100 + len(content["annotations"])))
        change(dict(annotations=content["annotations"][::-1]))
    kinds = sorted(problem.kind for problem in check_coco(content, "train.json"))
    assert kinds == ["not_finite_box", "not_finite_box", "zero_size_box", "zero_size_box"]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [("{", "not_json", "not a JSON file"),
     ("[]", "not_coco", "it holds a list"), ("{}", "not_coco", "no list of images"),
     ('{"images": [], "annotations": [], "shapes": []}', "not_coco", "no list of categories"),
     ('{"images": [1], "annotations": [], "categories": []}', "not_coco", "no list of images")],
)  # fmt: skip
def test_files_that_are_not_cocos(tmp_path, text, kind, message):
    (tmp_path / "a.json").write_text(text)
    content, (problem,) = read_coco(tmp_path / "a.json")
    assert content is None
    assert (problem.kind, problem.fatal) == (kind, True)
    assert message in problem.message


def test_missing_annotation_file(tmp_path):
    assert [problem.kind for problem in read_coco(tmp_path / "none.json")[1]] == ["missing_file"]


def write_image(path, width=40, height=30):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    cv2.imwrite(str(path), pixels)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_whole_images_are_good_and_damaged_ones_are_not(tmp_path, suffix):
    path = write_image(tmp_path / f"a.{suffix}")
    assert check_image(path, 40, 30) == ""
    assert "is 40x30 pixels, but 30x40 in the annotation file" in check_image(path, 30, 40)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert check_image(path) != ""
    path.write_bytes(b"")
    assert check_image(path) == "the file is empty"
    path.write_bytes(b"<html>404</html>")
    assert check_image(path) == "cannot be decoded: not an image, or damaged"


def test_images_outside_the_folder_are_not_opened(tmp_path):
    write_image(tmp_path / "secret.jpg")
    (tmp_path / "images").mkdir()
    image = dict(id=1, file_name="../secret.jpg", width=40, height=30)
    read = []
    assert list(image_problems(image, tmp_path / "images", lambda *args: read.append(args))) == []
    assert read == []
    for name in ("../a", "a/../../b", "/a", "C:\\a", "..\\a", "\\\\host\\a", ""):
        assert leaves_folder(name), name
    for name in ("a.jpg", "a/b.jpg", "a..b.jpg"):
        assert not leaves_folder(name)


@pytest.fixture
def bad_data(tmp_path):
    """One annotation without area, one truncated and one missing image."""
    content = coco(3)
    content["annotations"][0]["bbox"] = [1, 2, 0, 20]
    (tmp_path / "train.json").write_text(json.dumps(content))
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images/1.jpg")
    jpeg = write_image(tmp_path / "images/2.jpg").read_bytes()
    (tmp_path / "images/2.jpg").write_bytes(jpeg[:-200])
    return tmp_path


def run_tool(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["check_dataset.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "tools/check_dataset.py"), run_name="__main__")
    output = capsys.readouterr()
    return caught.value.code, output.out.splitlines(), output.err


def test_tool_lists_every_problem_of_files(bad_data, monkeypatch, capsys):
    code, lines, errors = run_tool(
        monkeypatch, capsys, "--json", bad_data / "train.json", "--images", bad_data / "images"
    )
    assert code == 1
    assert len(lines) == 3
    assert (
        lines[0]
        == f"{bad_data}/train.json: annotation 11 of image 1: its box has no area: width 0, height 20"
    )
    # Which depends on the version of OpenCV.
    assert re.match(rf"{bad_data}/images/2.jpg: image 2: (is truncated|cannot be decoded)", lines[1])
    assert lines[2] == f"{bad_data}/images/3.jpg: image 3: there is no such file"
    assert "3/3" in errors  # the progress bar
    assert "3 problems in 1 annotation file: " in errors


CONFIG = """
data = dict(type='CocoDataset', data_root={root!r}, ann_file='train.json', data_prefix=dict(img='images/'),
    metainfo=dict(classes=('cat', 'dog')))
train_dataloader = dict(dataset=dict(type='RepeatDataset', times=2, dataset=data))
val_dataloader = dict(dataset=dict(data, test_mode=True))
"""


def test_tool_checks_each_data_set_of_a_config_once(bad_data, monkeypatch, capsys):
    (bad_data / "config.py").write_text(CONFIG.format(root=str(bad_data)))
    code, lines, _ = run_tool(monkeypatch, capsys, bad_data / "config.py")
    assert (code, len(lines)) == (1, 3)
    assert run_tool(monkeypatch, capsys, bad_data / "config.py", "--no-images")[:2] == (1, lines[:1])


def test_tool_is_content_with_good_data_and_says_what_it_cannot_check(bad_data, monkeypatch, capsys):
    (bad_data / "train.json").write_text(json.dumps(coco(1)))
    (bad_data / "config.py").write_text(CONFIG.format(root=str(bad_data)))
    code, lines, errors = run_tool(monkeypatch, capsys, bad_data / "config.py")
    assert (code, lines) == (0, [])
    assert "no problems in 1 annotation file" in errors
    options = ["--cfg-options", "train_dataloader.dataset.dataset.type=XMLDataset", "val_dataloader=None"]
    code, _, errors = run_tool(monkeypatch, capsys, bad_data / "config.py", *options)
    assert code == 2
    assert "train_dataloader: XMLDataset is no local COCO data set: not checked" in errors
    assert run_tool(monkeypatch, capsys)[0] == 2


def training(folder, **more):
    (folder / "config.py").write_text(CONFIG.format(root=str(folder)))
    return Config(dict(Config.fromfile(folder / "config.py"), **more))


def test_training_counts_bad_annotations_or_stops_as_configured(bad_data, caplog, monkeypatch):
    monkeypatch.setattr(
        "lad.cli.checks.print_log", lambda message, logger, level: logging.getLogger("x").log(level, message)
    )
    with caplog.at_level(logging.WARNING):
        check_annotations(training(bad_data))
    assert "train.json: 1 zero_size_box. `lad check` lists them" in caplog.text
    assert "3 images and 2 of 3 objects; left out by MMDetection: objects: 1 without area." in caplog.text
    with pytest.raises(DataError, match="annotation 11 of image 1: its box has no area"):
        check_annotations(training(bad_data, bad_data=dict(annotations="stop")))


def test_training_always_stops_at_annotations_that_no_training_can_be_right_with(bad_data):
    content = coco()
    content["images"][0]["id"] = 2
    (bad_data / "train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"train.json: image 2: the id occurs 2 times.*lad check") as caught:
        check_annotations(training(bad_data, bad_data=dict(annotations="skip")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", [dict(image="skip"), dict(images="ignore"), "skip"])
def test_policies_that_do_not_exist_are_refused(asked):
    with pytest.raises(ConfigError, match="bad_data must be like"):
        bad_data_policy(dict(bad_data=asked))


def dataset_of(bad_data, **options):
    pipeline = [dict(type="LoadImageFromFile"), dict(type="PackDetInputs", meta_keys=("img_id",))]
    config = dict(
        ann_file=str(bad_data / "train.json"),
        data_prefix=dict(img=str(bad_data / "images")),
        metainfo=dict(classes=CLASSES),
        pipeline=pipeline,
    )
    check_image_loading(config, **options)
    return CocoDataset(**config)


def test_image_that_cannot_be_loaded_is_named(bad_data):
    dataset = dataset_of(bad_data, on_error="stop")
    assert dataset[0]["data_samples"].img_id == 1
    with pytest.raises(
        DataError, match=r"image 3 \(.*images/3.jpg\) cannot be loaded: .*No such file"
    ) as caught:
        dataset[2]
    assert "\n" not in str(caught.value)
    (bad_data / "images/3.jpg").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"image 3 .*failed to load image"):
        dataset[2]


def test_another_image_is_taken_instead_and_counted(bad_data):
    dataset = dataset_of(bad_data, on_error="skip")
    np.random.seed(0)
    (bad_data / "images/2.jpg").write_bytes(b"<html>")
    numbers = {dataset[2]["data_samples"].img_id for _ in range(8)}
    assert numbers == {1}
    assert dataset.pipeline.transforms[0].skipped >= 8


def test_number_of_skipped_images_is_bounded(bad_data):
    loading = LoadCheckedImageFromFile(on_error="skip", max_skips=1)
    assert loading(dict(img_path="none.jpg", img_id=4)) is None
    with pytest.raises(DataError, match="this process has skipped 1 images"):
        loading(dict(img_path="none.jpg", img_id=4))


def test_loading_is_exchanged_however_deep_and_nothing_else_is():
    inner = [dict(type="LoadImageFromFile", to_float32=True), dict(type="LoadAnnotations")]
    config = dict(
        dataset=dict(dataset=dict(pipeline=copy.deepcopy(inner))), hooks=[dict(switch_pipeline=inner)]
    )
    check_image_loading(config, "skip")
    for pipeline in (config["dataset"]["dataset"]["pipeline"], config["hooks"][0]["switch_pipeline"]):
        assert pipeline == [
            dict(type="LoadCheckedImageFromFile", on_error="skip", to_float32=True),
            dict(type="LoadAnnotations"),
        ]


def photograph(path, orientation, width=40, height=30):
    """A JPEG of width x height pixels that a viewer turns by its EXIF orientation."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_photographs_that_their_orientation_turns_are_told_by_the_tool_and_by_training(bad_data, orientation):
    path = photograph(bad_data / "images/1.jpg", orientation)
    says = (
        rf"is turned by its EXIF orientation \({orientation}\) to 30x40 pixels, but 40x30 in the annotation"
    )
    assert re.match(says, check_image(path, 40, 30))
    with pytest.raises(DataError, match=says):
        dataset_of(bad_data, on_error="stop")[0]
    # As the message says, and as the annotations mean it.
    assert check_image(path, 40, 30, flag="color_ignore_orientation") == ""
    loading = LoadCheckedImageFromFile(color_type="color_ignore_orientation")
    assert loading(dict(img_path=str(path), img_id=1, width=40, height=30))["img_shape"] == (30, 40)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_photographs_that_keep_their_size_are_loaded(bad_data, orientation):
    photograph(bad_data / "images/1.jpg", orientation)
    assert dataset_of(bad_data, on_error="stop")[0]["data_samples"].img_id == 1


def test_image_of_another_size_than_its_annotations_is_not_trained_on(bad_data):
    for size in ((80, 60), (30, 40), (41, 30)):
        path = write_image(bad_data / "images/1.jpg", *size)
        says = f"is {size[0]}x{size[1]} pixels, but 40x30 in the annotation file"
        assert check_image(path, 40, 30) == says
        with pytest.raises(DataError, match=f"image 1 .* cannot be loaded: {says}"):
            dataset_of(bad_data, on_error="stop")[0]
    # Data sets that give no size.
    assert LoadCheckedImageFromFile()(dict(img_path=str(path), img_id=1))["img_shape"] == (30, 41)


BIG = 2**53


def numbered(ids):
    """Images of these ids, each with one box."""
    content = coco(images=len(ids))
    for number, image, annotation in zip(ids, content["images"], content["annotations"], strict=True):
        image["id"] = annotation["image_id"] = number
    return content


@pytest.mark.parametrize(
    ("ids", "merged"),
    [
        ([BIG, BIG + 1, 0.5], BIG),
        ([3, BIG + 4, BIG + 3, 7.0], BIG + 4),
        ([-1, 2**63 + 1, 2**63], 2**63 + 1),
        ([1.0, -(BIG + 1), -BIG], -(BIG + 1)),
    ],
)
def test_ids_that_are_one_in_an_array_are_refused_where_they_are_evaluated(ids, merged):
    assert len(np.unique(ids)) < len(ids)  # what pycocotools does with them
    problems = check_coco(numbered(ids), "f", CLASSES, FileUse(evaluated=True))
    (problem,) = [problem for problem in problems if problem.kind == "not_an_id"]
    assert problem.fatal
    assert "into one array" in problem.message
    assert problem.where == f"image {merged}"
    assert [p for p in check_coco(numbered(ids), "f", CLASSES) if p.kind == "not_an_id"] == []


@pytest.mark.parametrize(
    "ids",
    [[1, 2], [1.0, 2], [0.5, 1.5, 3], [BIG, BIG + 1], [-5, 0], [2**63, 2**63 + 1], [2**64, 1], ["a", "b"]],
)
def test_ids_that_stay_apart_pass(ids):
    assert check_coco(numbered(ids), "f", CLASSES, FileUse(evaluated=True)) == []
