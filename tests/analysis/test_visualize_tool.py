"""tools/visualize_assignment.py on a few digits."""

import json
import runpy
import sys

from lad.base.config import load_config
from lad.datasets import DigitsParameters, make_digits

import pytest
from helpers import ROOT, save_checkpoint
from mmdet.registry import MODELS

CONFIGS = ROOT / "configs"
LAD = CONFIGS / "lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits.py"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Four images, and a teacher's checkpoint."""
    folder = tmp_path_factory.mktemp("pictures")
    make_digits(folder / "digits", DigitsParameters(images=4, val_images=2))
    teacher = MODELS.build(load_config(str(CONFIGS / "lad/paa_r18-c32_fpn_digits.py")).model)
    save_checkpoint(teacher, folder / "teacher.pth")
    return folder


def draw(monkeypatch, workplace, config, out, *arguments, teacher="teacher.pth"):
    data = f"{workplace}/digits/"
    options = [f"{split}_dataloader.dataset.data_root={data}" for split in ("train", "val", "test")]
    options += [f"val_evaluator.ann_file={data}annotations/val.json"]
    options += [f"model.teacher.checkpoint={workplace}/{teacher}"] if teacher else []
    path = ROOT / "tools/visualize_assignment.py"
    command = [path, config, "--out-dir", out, *arguments, "--cfg-options", *options]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    runpy.run_path(str(path), run_name="__main__")


def names(workplace, split="train"):
    content = json.loads((workplace / f"digits/annotations/{split}.json").read_text())
    return {image["id"]: image["file_name"].removesuffix(".png") for image in content["images"]}


def test_lad_before_training_by_id_and_name(workplace, tmp_path, monkeypatch, capsys):
    known = names(workplace)
    first, last = min(known), max(known)
    chosen = ["--images", f"id={last}", f"{known[first]}.png", "--max-objects", "1"]
    draw(monkeypatch, workplace, LAD, tmp_path, *chosen)
    assert {path.stem for path in tmp_path.glob("*.png")} == {known[last], known[first]}
    assert capsys.readouterr().out.count("positives: student alone") == 2


def test_a_plain_detector_from_its_checkpoint(workplace, tmp_path, monkeypatch, capsys):
    config = CONFIGS / "lad/paa_r18-c32_fpn_digits.py"
    chosen = [
        "--images",
        "1",
        "--max-objects",
        "1",
        "--split",
        "val",
        "--checkpoint",
        workplace / "teacher.pth",
    ]
    draw(monkeypatch, workplace, config, tmp_path, *chosen, teacher=None)
    assert [path.stem for path in tmp_path.glob("*.png")] == [
        names(workplace, "val")[min(names(workplace, "val"))]
    ]
    assert "positives: assigned" in capsys.readouterr().out


def test_role_switch_shows_who_taught(workplace, tmp_path, monkeypatch, capsys):
    config = CONFIGS / "colad/colad_paa-r18-c16_paa-r18-c32_fpn_digits.py"
    draw(
        monkeypatch,
        workplace,
        config,
        tmp_path,
        "--role-switch",
        "--images",
        "1",
        "--max-objects",
        "1",
        teacher=None,
    )
    assert "small alone" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.png"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "none.pth"], "there is no checkpoint 'none.pth'"),
        (["--images", "0000001.png"], "'0000001.png' is neither id nor file name of the data set's 4 images"),
        (["--role-switch"], "--role-switch needs a CoLearningAssignment"),
        (["--images", "id=77"], "'id=77' is neither id nor file name"),
        (["--images", "0"], "--images 0 draws nothing"),
        (["--images", "1", "2"], "objects; for the image with this id use id=1."),
    ],
)
def test_mistakes_are_one_line(arguments, message, workplace, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        draw(monkeypatch, workplace, LAD, tmp_path, *arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_a_missing_teacher_is_one_line(workplace, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        draw(monkeypatch, workplace, LAD, tmp_path, teacher="nowhere.pth")
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: teacher")
    assert "there is no checkpoint" in error
