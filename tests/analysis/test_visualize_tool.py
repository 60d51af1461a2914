"""tools/visualize_assignment.py on a few digits."""

import json
import runpy
import shutil
import sys

from lad.base.config import load_config
from lad.commands.visualize import picture_names
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


def draw(monkeypatch, workplace, config, out, *arguments, teacher="teacher.pth", more_options=()):
    data = f"{workplace}/digits/"
    options = [f"{split}_dataloader.dataset.data_root={data}" for split in ("train", "val", "test")]
    options += [f"val_evaluator.ann_file={data}annotations/val.json"]
    options += [f"model.teacher.checkpoint={workplace}/{teacher}"] if teacher else []
    options += more_options
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


def test_pictures_never_replace_the_images(workplace, tmp_path, monkeypatch, capsys):
    folder = workplace / "digits/images/train"
    before = {file: file.read_bytes() for file in folder.iterdir()}
    assert before
    with pytest.raises(SystemExit):
        draw(monkeypatch, workplace, LAD, folder, "--images", "1")
    assert "which its picture would replace: name another folder" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


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


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["d/a.png", "d/deep/b.jpg"], ["a.png", "b.png"]),
        (["d/a/x.png", "d/b/x.png", "d/y.png"], ["a/x.png", "b/x.png", "y.png"]),
        (["d/x.png", "d/a/b/x.jpg"], ["x.png", "a/b/x.png"]),
        (["d/x.png", "d/x.jpg", "d/a/x.jpg"], ["x.png.png", "x.jpg.png", "a/x.png"]),
        (["d/x.png", "d/x.png"], ["x.png", "x.png"]),
        (["/data/a/x.png", "b/x.png"], None),
    ],
)
def test_every_image_has_a_picture_of_its_own_and_its_plain_name_where_that_is_enough(paths, names):
    found = picture_names(paths)
    assert len(set(found.values())) == len(set(paths))
    if names is not None:
        assert [found[path] for path in paths] == names


def test_images_of_one_name_in_two_folders_are_both_drawn(workplace, tmp_path, monkeypatch):
    content = json.loads((workplace / "digits/annotations/train.json").read_text())
    with_objects = [one["image_id"] for one in content["annotations"]]
    chosen = [image for image in content["images"] if image["id"] in with_objects][:2]
    for image, folder in zip(chosen, "ab", strict=True):
        (tmp_path / folder).mkdir()
        shutil.copy(workplace / "digits/images/train" / image["file_name"], tmp_path / folder / "x.png")
        image["file_name"] = f"{folder}/x.png"
    ids = {image["id"] for image in chosen}
    boxes = [one for one in content["annotations"] if one["image_id"] in ids]
    (tmp_path / "two.json").write_text(json.dumps(dict(content, images=chosen, annotations=boxes)))
    options = [f"train_dataloader.dataset.ann_file={tmp_path}/two.json"]
    options += [f"train_dataloader.dataset.data_prefix.img={tmp_path}"]
    config = CONFIGS / "lad/paa_r18-c16_fpn_digits.py"
    out = tmp_path / "out"
    more = ["--images", "2", "--max-objects", "1"]
    draw(monkeypatch, workplace, config, out, *more, teacher=None, more_options=options)
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.png")) == ["a/x.png", "b/x.png"]


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_a_seed_that_is_none_is_a_mistake_in_the_command(seed, workplace, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        draw(monkeypatch, workplace, LAD, tmp_path, "--seed", seed)
    assert stop.value.code == 2
    assert f"--seed must be from 0 to 4294967295, got {seed}" in capsys.readouterr().err
