"""``tools/synthesize.py``: from a trained detector to a folder that a distillation trains on."""

import json
import runpy
import signal
import subprocess
import sys
import time

from lad.base.config import load_config
from lad.datasets.coco_checks import check_coco

import numpy as np
import pytest
from dense_detectors import dense, differing
from helpers import ROOT, build, save_checkpoint
from mask_detectors import segmentor
from mmdet.registry import DATASETS
from mmengine.config import Config
from PIL import Image

CLASSES = ("cat", "dog", "cow")
SMALL = ["--images", "5", "--batch-size", "2", "--steps", "3", "--object-size", "0.3", "0.6"]


def write_config(folder, model, name="config.py"):
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(90, 64), keep_ratio=True),
        dict(type="PackDetInputs", meta_keys=("ori_shape", "img_shape")),
    ]
    train = [dict(type="RandomFlip", prob=0.25), dict(type="PackDetInputs")]
    Config(
        dict(
            model=model,
            train_dataloader=dict(dataset=dict(type="CocoDataset", pipeline=train)),
            test_dataloader=dict(dataset=dict(type="CocoDataset", pipeline=pipeline)),
        )
    ).dump(folder / name)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A small RetinaNet with random weights, in the working directory."""
    model = dense("retinanet")
    write_config(tmp_path, model)
    save_checkpoint(build(model), tmp_path / "model.pth", dataset_meta=dict(classes=CLASSES))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def synthesize(monkeypatch, *options, config="config.py", checkpoint="model.pth"):
    monkeypatch.setattr(sys, "argv", ["synthesize.py", config, checkpoint, *options])
    monkeypatch.setattr("lad.commands.synthesize.get_device", lambda: "cpu")
    runpy.run_path(str(ROOT / "tools/synthesize.py"), run_name="__main__")


def refused(monkeypatch, capsys, *options, **files):
    with pytest.raises(SystemExit) as stopped:
        synthesize(monkeypatch, *options, **files)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    lines = [line for line in message.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, message
    return lines[0]


def test_folder_can_be_trained_on(workplace, monkeypatch, capsys):
    synthesize(monkeypatch, "--out", "made", *SMALL)
    printed = capsys.readouterr().out
    made = json.loads((workplace / "made/annotations.json").read_text())
    assert check_coco(made, "made/annotations.json", CLASSES) == []
    assert [category["name"] for category in made["categories"]] == list(CLASSES)
    # As the test pipeline resizes, rounded up to multiples of 32.
    assert {(image["width"], image["height"]) for image in made["images"]} == {(96, 64)}
    assert f"5 images of {len(made['annotations'])} objects" in printed
    assert "python tools/train.py DISTILLATION_CONFIG" in printed
    dataset = DATASETS.build(
        dict(
            type="CocoDataset",
            data_root="made/",
            ann_file="annotations.json",
            data_prefix=dict(img="images/"),
            metainfo=dict(classes=CLASSES),
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(type="LoadAnnotations", with_bbox=True),
                dict(type="PackDetInputs"),
            ],
        )
    )
    assert len(dataset) == 5
    assert dataset[0]["inputs"].shape == (3, 64, 96)


def test_settings_are_those_of_the_config_and_the_command_line(workplace, monkeypatch):
    synthesize(monkeypatch, "--out", "made", *SMALL, "--variation-weight", "3", "--lr", "0.02", "--seed", "4")
    settings = json.loads((workplace / "made/synthesis.jsonl").read_text().splitlines()[0])["settings"]
    assert settings["schedule"]["flip_prob"] == 0.25  # of the training pipeline
    assert settings["schedule"]["lr"] == 0.02
    assert settings["objective"]["variation"] == 3
    assert settings["layouts"]["sides"] == [0.3, 0.6]
    assert settings["seed"] == 4


def test_contact_sheet_shows_the_images(workplace, monkeypatch):
    synthesize(monkeypatch, "--out", "made", *SMALL)
    with Image.open(workplace / "made/contact_sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    with Image.open(workplace / "made/images/000001.png") as image:
        first = np.asarray(image.convert("RGB"))
    # The first image lies below the title, enlarged; pixels of its middle have neighbours of the same colour.
    found = (pixels[34:150, 6:166].reshape(-1, 1, 3) == first[30:34, 40:44].reshape(1, -1, 3)).all(-1).any(0)
    assert found.mean() > 0.7


def test_boxes_of_a_file_are_used(workplace, monkeypatch):
    boxes = dict(
        images=[dict(id=1, file_name="not_there.jpg", width=192, height=128)],
        annotations=[dict(id=1, image_id=1, category_id=3, bbox=[20, 40, 80, 60], area=4800, iscrowd=0)],
        categories=[dict(id=3, name="dog")],
    )
    (workplace / "boxes.json").write_text(json.dumps(boxes))
    synthesize(monkeypatch, "--out", "made", *SMALL[:6], "--boxes", "boxes.json")
    made = json.loads((workplace / "made/annotations.json").read_text())
    assert [one["bbox"] for one in made["annotations"]] == [[10, 20, 40, 30]] * 5
    assert {one["category_id"] for one in made["annotations"]} == {2}


def test_same_command_again_makes_nothing(workplace, monkeypatch, capsys):
    synthesize(monkeypatch, "--out", "made", *SMALL)
    first = capsys.readouterr().out
    changed = {path: path.stat().st_mtime_ns for path in (workplace / "made/images").iterdir()}
    synthesize(monkeypatch, "--out", "made", *SMALL)
    assert capsys.readouterr().out == first
    assert {path: path.stat().st_mtime_ns for path in (workplace / "made/images").iterdir()} == changed


def test_folder_of_other_settings_is_refused(workplace, monkeypatch, capsys):
    synthesize(monkeypatch, "--out", "made", *SMALL)
    message = refused(monkeypatch, capsys, "--out", "made", *SMALL, "--seed", "1")
    assert "made was made with other settings (seed; seed: 0, now 1)" in message


def test_folder_is_of_the_config_as_the_options_change_it(workplace, monkeypatch, capsys):
    """Not of the config's path: it says nothing of the options, and one file has many."""
    options = ["--cfg-options", "model.bbox_head.loss_cls.loss_weight=50"]
    synthesize(monkeypatch, "--out", "made", *SMALL)
    log = workplace / "made/synthesis.jsonl"
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines()[:2]))  # killed after a batch
    before = log.read_bytes()
    message = refused(monkeypatch, capsys, "--out", "made", *SMALL, *options)
    assert "made was made with other settings (model; model: " in message
    assert log.read_bytes() == before
    synthesize(monkeypatch, "--out", "made", *SMALL, config=str(workplace / "config.py"))
    assert "5 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--images", "0"], "images and batch_size must be at least 1"),
        (["--steps", "-1"], "steps must be at least 0"),
        (["--size", "64", "100"], "--size must be multiples of 32"),
        (["--object-size", "0.5", "0.1"], "sizes of objects"),
        (["--objects", "3", "1"], "numbers of objects"),
        (["--first-weight", "-1"], "'first' must be a number of at least 0"),
        (["--boxes", "none.json"], "there is no such annotation file"),
        (["--classes", "cat", "dog"], "3 classes and 2 names are given"),
    ],
)
def test_impossible_options_are_refused_in_one_line(workplace, monkeypatch, capsys, options, reason):
    assert reason in refused(monkeypatch, capsys, "--out", "made", *options)
    assert not (workplace / "made").exists()


def test_checkpoint_without_class_names_is_refused_unless_they_are_given(workplace, monkeypatch, capsys):
    save_checkpoint(build(dense("retinanet")), workplace / "nameless.pth")
    files = dict(checkpoint="nameless.pth")
    assert "does not name its classes" in refused(monkeypatch, capsys, "--out", "made", *SMALL, **files)
    synthesize(monkeypatch, "--out", "made", *SMALL, "--classes", *CLASSES, **files)
    made = json.loads((workplace / "made/annotations.json").read_text())
    assert [category["name"] for category in made["categories"]] == list(CLASSES)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: differing(dense("retinanet")), "has no batch norm"),
        (lambda: segmentor("condinst"), "its loss needs masks"),
    ],
)
def test_unfit_teachers_are_refused_before_their_weights_are_read(
    workplace, monkeypatch, capsys, model, reason
):
    write_config(workplace, model(), "unfit.py")
    assert reason in refused(monkeypatch, capsys, "--out", "made", *SMALL, config="unfit.py")


def test_checkpoint_of_another_detector_is_refused(workplace, monkeypatch, capsys):
    save_checkpoint(build(dense("fcos")), workplace / "other.pth", dataset_meta=dict(classes=CLASSES))
    message = refused(monkeypatch, capsys, "--out", "made", *SMALL, checkpoint="other.pth")
    assert "lad synthesize: checkpoint other.pth" in message


@pytest.mark.slow
def test_killed_run_ends_with_the_same_files(workplace):
    """SIGKILL in the middle of a batch, several times."""
    command = [
        sys.executable,
        str(ROOT / "tools/synthesize.py"),
        "config.py",
        "model.pth",
        "--device",
        "cpu",
        *SMALL,
    ]
    command[command.index("--steps") + 1] = "40"
    subprocess.run([*command, "--out", "whole"], check=True, capture_output=True)
    for done in (0, 1, 2):
        process = subprocess.Popen(
            [*command, "--out", "parts"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        log = workplace / "parts/synthesis.jsonl"
        while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > done):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, "--out", "parts"], check=True, capture_output=True)
    for path in sorted((workplace / "whole").rglob("*")):
        if path.is_file() and path.name != ".lock":
            assert (
                path.read_bytes()
                == (workplace / "parts" / path.relative_to(workplace / "whole")).read_bytes()
            )


def test_distillation_config_of_digits_trains_on_the_folder():
    """The config that is shipped reads what the command writes."""
    cfg = load_config(str(ROOT / "configs/data_free/diode_paa-r18-c16_paa-r18-c32_fpn_digits.py"))
    dataset = cfg.train_dataloader.dataset.dataset
    assert dataset.ann_file == "annotations.json"
    assert dataset.data_prefix == dict(img="images/")
