"""Pseudo labels of a trained detector: what is in them, resuming, and refusals."""

import errno
import json
import os
import runpy
import shutil
import sys
from pathlib import Path
from unittest import mock

from lad.datasets.coco_checks import check_coco
from lad.datasets.image_folder import image_files, unlabelled_coco
from lad.errors import DataError

import numpy as np
import pytest
import torch
from helpers import ROOT, small_detector
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import MODELS
from mmengine.config import Config
from PIL import ExifTags, Image

CLASSES = ("cat", "dog", "cow")


def write_image(path, width, height, orientation=None):
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    exif = Image.Exif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A small RetinaNet with random weights, and four images, one in a subfolder and one that is shown turned."""
    folder = tmp_path_factory.mktemp("label")
    write_image(folder / "images/b.png", 64, 48)
    write_image(folder / "images/a.jpg", 40, 64, orientation=6)
    write_image(folder / "images/c.png", 96, 64)
    (folder / "images/deep").mkdir()
    write_image(folder / "images/deep/d.png", 64, 64)
    (folder / "images/notes.txt").write_text("no image")
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(96, 96), keep_ratio=True),
        dict(type="LoadAnnotations", with_bbox=True),
        dict(
            type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
        ),
    ]
    config = Config(
        dict(
            model=small_detector("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"),
            test_dataloader=dict(dataset=dict(type="CocoDataset", pipeline=pipeline)),
        )
    )
    config.dump(folder / "config.py")
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    # Random weights with scores around a half.
    torch.nn.init.zeros_(model.bbox_head.retina_cls.bias)
    torch.nn.init.normal_(model.bbox_head.retina_cls.weight, std=0.5)
    torch.save(
        dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=CLASSES))),
        folder / "model.pth",
    )
    return folder


def label(workplace, out, *options, monkeypatch):
    arguments = [
        "config.py",
        "model.pth",
        "--images",
        "images",
        "--out",
        out,
        "--workers",
        "0",
        "--device",
        "cpu",
    ]
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "argv", ["label.py", *arguments, *map(str, options)])
    runpy.run_path(str(ROOT / "tools/label.py"), run_name="__main__")


def refused(workplace, capsys, *arguments, monkeypatch):
    with pytest.raises(SystemExit) as caught:
        label(workplace, *arguments, monkeypatch=monkeypatch)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_labels_are_the_detectors_detections_in_a_sound_coco_file(workplace, monkeypatch, capsys):
    label(workplace, "a.json", "--min-score", 0.5, "--max-per-image", 7, monkeypatch=monkeypatch)
    content = json.loads((workplace / "a.json").read_text())
    assert check_coco(content, "a.json", CLASSES) == []
    names = [(image["file_name"], image["width"], image["height"]) for image in content["images"]]
    assert names == [("a.jpg", 64, 40), ("b.png", 64, 48), ("c.png", 96, 64), ("deep/d.png", 64, 64)]
    assert [category["name"] for category in content["categories"]] == list(CLASSES)
    model = init_detector(str(workplace / "config.py"), str(workplace / "model.pth"), device="cpu")
    for image in content["images"]:
        found = inference_detector(model, str(workplace / "images" / image["file_name"])).pred_instances
        own = [one for one in content["annotations"] if one["image_id"] == image["id"]]
        kept = found[found.scores >= 0.5][:7]
        assert 0 < len(own) <= len(kept)
        scores = {round(score, 4) for score in kept.scores.tolist()}
        assert {one["score"] for one in own} <= scores
        for one in own:
            x, y, w, h = one["bbox"]
            corners = kept.bboxes[kept.labels == one["category_id"] - 1]
            limit = torch.tensor([image["width"], image["height"]]).repeat(2)
            nearest = (
                (corners.clamp(min=0).minimum(limit) - torch.tensor([x, y, x + w, y + h])).abs().amax(1).min()
            )
            assert nearest < 0.02
    assert sorted(path.name for path in workplace.glob("a.json*")) == ["a.json"]
    assert "detections in 4 images" in capsys.readouterr().out


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_run_goes_on_and_gives_the_same_file(workplace, monkeypatch, batch_size, torn):
    options = ("--min-score", 0.3, "--batch-size", batch_size, "--force")
    label(workplace, "whole.json", *options, monkeypatch=monkeypatch)
    calls = []
    step = MODELS.get("RetinaNet").test_step

    def interrupted(self, batch):
        calls.append(len(batch["inputs"]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return step(self, batch)

    with (
        mock.patch.object(MODELS.get("RetinaNet"), "test_step", interrupted),
        pytest.raises(KeyboardInterrupt),
    ):
        label(workplace, "part.json", *options, monkeypatch=monkeypatch)
    unfinished = workplace / "part.json.unfinished"
    assert len(unfinished.read_text().splitlines()) == 2
    if torn:
        with open(unfinished, "a") as file:
            file.write('[[3, [{"bbox": [1')
    calls += [0]  # no further interruption
    with mock.patch.object(MODELS.get("RetinaNet"), "test_step", interrupted):
        label(workplace, "part.json", *options, monkeypatch=monkeypatch)
    assert calls[3:] == ([1, 1, 1] if batch_size == 1 else [1])
    assert (workplace / "part.json").read_bytes() == (workplace / "whole.json").read_bytes()
    (workplace / "part.json").unlink()


def test_an_unfinished_run_with_other_options_is_not_mixed_in(workplace, monkeypatch, capsys):
    with (
        mock.patch.object(MODELS.get("RetinaNet"), "test_step", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        label(workplace, "mixed.json", "--min-score", 0.3, monkeypatch=monkeypatch)
    line = refused(workplace, capsys, "mixed.json", "--min-score", 0.4, monkeypatch=monkeypatch)
    assert "mixed.json.unfinished is of a run with another checkpoint, other images or options" in line


def interrupt(workplace, monkeypatch, out, *options, after=1):
    """A run that is interrupted once so many images are done; returns its file of detections."""
    calls = []
    step = MODELS.get("RetinaNet").test_step

    def interrupted(self, batch):
        calls.append(batch)
        if len(calls) > after:
            raise KeyboardInterrupt
        return step(self, batch)

    with (
        mock.patch.object(MODELS.get("RetinaNet"), "test_step", interrupted),
        pytest.raises(KeyboardInterrupt),
    ):
        label(workplace, out, *options, monkeypatch=monkeypatch)
    return workplace / f"{out}.unfinished"


def other_folder(workplace):
    shutil.copytree(workplace / "images", workplace / "copy", dirs_exist_ok=True)
    return ("--images", "copy")


def other_pixels(workplace):
    path = workplace / "changed/b.png"
    state = path.stat()
    write_image(path, 64, 48)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    return ("--images", "changed")


def other_config(workplace):
    text = (workplace / "config.py").read_text()
    assert "score_thr=0.05" in text
    (workplace / "own.py").write_text(text.replace("score_thr=0.05", "score_thr=0.2"))


@pytest.mark.parametrize(
    ("begun", "change", "differs"),
    [
        ((), other_folder, "folder"),
        (("--images", "changed"), other_pixels, "images"),
        ((), lambda _: ("--cfg-options", "model.test_cfg.score_thr=0.4"), "settings"),
        ((), lambda _: ("--classes", "a", "b", "c"), "images"),
    ],
)
def test_an_interrupted_run_is_not_continued_with_another_input(
    workplace, monkeypatch, capsys, begun, change, differs
):
    shutil.copytree(workplace / "images", workplace / "changed", dirs_exist_ok=True)
    unfinished = interrupt(workplace, monkeypatch, "other.json", *begun)
    before = unfinished.read_bytes()
    line = refused(workplace, capsys, "other.json", *begun, *change(workplace), monkeypatch=monkeypatch)
    assert (
        f"other.json.unfinished is of a run with another checkpoint, other images or options ({differs}"
        in line
    )
    assert unfinished.read_bytes() == before
    assert not (workplace / "other.json").exists()
    unfinished.unlink()


def test_the_same_config_under_another_path_goes_on_and_a_changed_one_does_not(
    workplace, monkeypatch, capsys
):
    shutil.copy(workplace / "config.py", workplace / "own.py")
    unfinished = interrupt(workplace, monkeypatch, "moved.json")
    monkeypatch.chdir(workplace)
    command = [
        "label.py",
        "own.py",
        "model.pth",
        "--images",
        "images",
        "--out",
        "moved.json",
        "--workers",
        "0",
    ]
    monkeypatch.setattr(sys, "argv", [*command, "--device", "cpu"])
    other_config(workplace)
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "tools/label.py"), run_name="__main__")
    assert "(settings differ)" in capsys.readouterr().err
    shutil.copy(workplace / "config.py", workplace / "own.py")
    runpy.run_path(str(ROOT / "tools/label.py"), run_name="__main__")
    assert "detections in 4 images" in capsys.readouterr().out
    assert not unfinished.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"config": "config.py", "min_score": 0.3}\n', "is of a run with another version of lad"),
        (b"[1, 2]\n", "is damaged: delete it to begin anew"),
        (b"\xff\xfe\n", "is damaged: delete it to begin anew"),
        (b"", "is damaged: delete it to begin anew"),
    ],
)
def test_leftovers_of_other_versions_and_damaged_ones_are_one_line(
    workplace, monkeypatch, capsys, content, says
):
    unfinished = workplace / "left.json.unfinished"
    unfinished.write_bytes(content)
    assert says in refused(workplace, capsys, "left.json", monkeypatch=monkeypatch)
    assert unfinished.read_bytes() == content
    unfinished.unlink()


@pytest.mark.parametrize("line", ["7", "[[3, []]]", "[[1]]"])
def test_damaged_lines_of_an_unfinished_run_are_one_line(workplace, monkeypatch, capsys, line):
    unfinished = interrupt(workplace, monkeypatch, "damaged.json", after=0)
    with open(unfinished, "a") as file:
        file.write(f"{line}\n")
    assert "is damaged: delete it" in refused(workplace, capsys, "damaged.json", monkeypatch=monkeypatch)
    unfinished.unlink()


@pytest.mark.parametrize(
    ("out", "options", "says"),
    [
        ("early.json", ("--device", "nope"), "device 'nope' cannot be used"),
        ("early.json", ("--workers", -1), "--workers must be at least 0, got -1"),
        ("early.json", ("--classes", "a", "a", "b"), "'a' is the name of more than one class"),
        ("images", ("--force",), "images is a folder: name a file in it"),
        ("model.pth/early.json", (), "model.pth is a file, and model.pth/early.json needs a folder there"),
    ],
)
def test_what_would_stop_the_run_is_found_before_anything_is_written(
    workplace, monkeypatch, capsys, out, options, says
):
    before = sorted(workplace.iterdir())
    with mock.patch.object(
        MODELS.get("RetinaNet"), "test_step", side_effect=AssertionError("an image was done")
    ):
        assert says in refused(workplace, capsys, out, *options, monkeypatch=monkeypatch)
    assert sorted(workplace.iterdir()) == before


def test_an_image_that_the_pipeline_cannot_handle_is_named_and_leaves_nothing_in_the_way(
    workplace, monkeypatch, capsys
):
    write_image(workplace / "thin/a.png", 600, 1)
    line = refused(workplace, capsys, "thin.json", "--images", "thin", monkeypatch=monkeypatch)
    assert line.startswith("error: image ")
    assert "thin/a.png (600 x 1 pixels) cannot be brought into the form that the detector takes" in line
    assert not list(workplace.glob("thin.json*"))


def test_a_file_of_labels_that_cannot_be_written_says_how_to_go_on(workplace, monkeypatch, capsys):
    replace = os.replace

    def full(source, target):
        if Path(target).name == "full.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with mock.patch("os.replace", full):
        line = refused(workplace, capsys, "full.json", monkeypatch=monkeypatch)
    assert "cannot write full.json (0 MB): No space left on device; " in line
    assert "the detections are kept in full.json.unfinished: make room, and the same command goes on" in line
    label(workplace, "full.json", monkeypatch=monkeypatch)
    assert (workplace / "full.json").is_file()


@pytest.mark.parametrize(
    ("options", "says"),
    [(("--min-score", 2), "min_score must be from 0 to 1"), (("--max-per-image", 0), "must be at least 1"),
     (("--classes", "cat"), "bbox_head has 3 classes and 1 names are given"),
     (("--images", "none"), "there is no image folder none"), (("--images", "empty"), "there is no image in empty"),
     (("--images", "broken"), "broken/x.png cannot be opened")],
)  # fmt: skip
def test_what_cannot_be_labelled_is_one_line(workplace, monkeypatch, capsys, options, says):
    for name in ("empty", "broken"):
        (workplace / name).mkdir(exist_ok=True)
    (workplace / "broken/x.png").write_bytes(b"<html>")
    assert says in refused(workplace, capsys, "none.json", *options, monkeypatch=monkeypatch)


def test_an_existing_file_is_not_replaced_without_force(workplace, monkeypatch, capsys):
    (workplace / "mine.json").write_text("{}")
    line = refused(workplace, capsys, "mine.json", monkeypatch=monkeypatch)
    assert "mine.json exists: give another --out, or --force" in line
    assert (workplace / "mine.json").read_text() == "{}"


def test_images_are_listed_in_one_order_with_the_size_in_which_they_are_shown(workplace):
    files = image_files(workplace / "images")
    assert files == [Path("a.jpg"), Path("b.png"), Path("c.png"), Path("deep/d.png")]
    content = unlabelled_coco(workplace / "images", files, ("x",))
    assert content["images"][0] == dict(id=1, file_name="a.jpg", width=64, height=40)
    with pytest.raises(DataError, match="there is no image folder"):
        image_files(workplace / "nowhere")
