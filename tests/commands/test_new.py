"""`lad new` writes a config that trains, or says in one line why not, and leaves nothing half done."""

import json
import sys

from lad.analysis.dry_run import describe_config
from lad.base.config import load_config
from lad.commands import new

import pytest
import torch
from helpers import ROOT
from mmdet.registry import DATASETS, MODELS
from PIL import Image

STUDENT, TEACHER = (str(ROOT / f"configs/rtmdet/rtmdet_{size}_digits.py") for size in ("nano", "mini"))
CLASSES = ["cat", "dog"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Two images with an object each, and one without."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        images = [dict(id=i, file_name=f"{i}.png", width=64, height=48) for i in range(3)]
        boxes = [
            dict(id=i, image_id=i, category_id=i + 1, bbox=[4, 4, 20, 20], area=400, iscrowd=0)
            for i in range(2)
        ]
        categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
        file = tmp_path / f"mine/annotations/{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(dict(images=images, annotations=boxes, categories=categories)))
        for one in images:
            (tmp_path / f"mine/{split}").mkdir(exist_ok=True)
            Image.new("RGB", (64, 48)).save(tmp_path / f"mine/{split}" / one["file_name"])
    return tmp_path


def checkpoint(folder, classes):
    model = load_config(TEACHER).model
    model.bbox_head.num_classes = len(classes)
    meta = dict(dataset_meta=dict(classes=classes))
    torch.save(dict(state_dict=MODELS.build(model).state_dict(), meta=meta), folder / "teacher.pth")
    return "teacher.pth"


def run(monkeypatch, *arguments, student=STUDENT, teacher=TEACHER, out="out.py"):
    command = [
        "lad new",
        "--student",
        student,
        "--teacher",
        teacher,
        "--data",
        "mine",
        "--out",
        out,
        *arguments,
    ]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    new.main()


def refused(monkeypatch, capsys, *arguments, **options):
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *arguments, **options)
    assert stopped.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_the_written_configs_describe_the_data_and_the_distillation(data, monkeypatch, capsys):
    run(monkeypatch, "--checkpoint", checkpoint(data, CLASSES), "--batch-size", "4")
    out = capsys.readouterr().out
    assert "3 images, 2 objects, 2 classes; 3 images for validation; 1 training images without objects" in out
    assert "student: RTMDet, teacher: RTMDet; method: lad" in out
    assert "  lad train out.py" in out.splitlines()[-2]
    assert out.splitlines()[-1] == "  lad test out.py work_dirs/out/epoch_6.pth"
    assert not (data / "out_teacher.py").exists()
    cfg = load_config("out.py")
    assert cfg.train_dataloader.batch_size == 4
    assert cfg.model.teacher.checkpoint == "teacher.pth"
    assert "LabelAssignmentDistillation" in describe_config(cfg)
    for loader, count in ((cfg.train_dataloader, 2), (cfg.val_dataloader, 3)):
        dataset = DATASETS.build(loader.dataset)
        assert len(dataset) == count
        assert dataset.metainfo["classes"] == tuple(CLASSES)
        assert dataset[0]["inputs"].shape[0] == 3
    assert load_config("out_student.py").model.bbox_head.num_classes == 2
    # Both classes are in few images.
    assert cfg.val_evaluator.frequencies == dict(ann_file="mine/annotations/train.json")


def test_the_order_of_the_classes_is_the_teachers(data, monkeypatch):
    run(monkeypatch, "--checkpoint", checkpoint(data, CLASSES[::-1]))
    assert load_config("out.py").train_dataloader.dataset.metainfo.classes == ("dog", "cat")


def test_without_a_checkpoint_the_teacher_is_trained_first(data, monkeypatch, capsys):
    run(monkeypatch, "--epochs", "3")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in lines[-3:]] == [
        ["train", "out_teacher.py"], ["train", "out.py"], ["test", "out.py"]
    ]  # fmt: skip
    assert lines[-1].endswith("epoch_3.pth")
    assert load_config("out.py").model.teacher.checkpoint == "work_dirs/out_teacher/epoch_6.pth"
    assert load_config("out.py").train_cfg.max_epochs == 3
    assert load_config("out_teacher.py").train_cfg.max_epochs == 6


def test_schedules_are_scaled_with_the_epochs(data, monkeypatch):
    run(monkeypatch, "--epochs", "100", student="mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py")
    cfg = load_config("out.py")
    cosine = cfg.param_scheduler[1]
    assert (cosine.begin, cosine.end, cosine.T_max) == (50, 100, 50)
    assert cfg.param_scheduler[0].end == 1000  # iterations
    assert cfg.train_cfg.dynamic_intervals == [(93, 1)]
    assert [hook.switch_epoch for hook in cfg.custom_hooks if "switch_epoch" in hook] == [93]


def test_a_wrapped_data_set_gets_the_files(data, monkeypatch):
    run(
        monkeypatch,
        student=str(ROOT / "configs/yolox/yolox_nano_digits.py"),
        teacher=str(ROOT / "configs/yolox/yolox_mini_digits.py"),
    )
    dataset = load_config("out.py").train_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    assert dataset.ann_file == "mine/annotations/train.json"


def test_bases_are_found_from_the_folder_of_the_config(data, monkeypatch):
    (data / "my").mkdir()
    for name, base in (("small", STUDENT), ("large", TEACHER)):
        (data / f"my/{name}.py").write_text(f"_base_ = {base!r}\n")
    run(monkeypatch, student="my/small.py", teacher="my/large.py", out="configs/out.py")
    assert '_base_ = "../my/small.py"' in (data / "configs/out_student.py").read_text()
    cfg = load_config("configs/out.py")
    assert cfg.model.teacher.config == "my/large.py"
    assert load_config("configs/out_teacher.py").model.bbox_head.num_classes == 2


def test_other_methods_can_be_asked_for(data, monkeypatch, capsys):
    run(monkeypatch, "--method", "pkd")
    assert load_config("out.py").model.methods[0].loss.type == "PKDLoss"
    assert "PKD compares" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([], dict(out="out.txt"), "--out must be a Python file"),
        (["--epochs", "0"], {}, "must be 1 at least"),
        (["--checkpoint", "gone.pth"], {}, "there is no checkpoint 'gone.pth'"),
        (["--train-annotations", "x.json"], {}, "name both --train-annotations and --val-annotations"),
        (["--method", "crosskd"], {}, "CrossHeadDistillation"),
        ([], dict(student="mmdet::rtmdet/rtmdet_tyni.py"), "there is no config"),
        (
            [],
            dict(student=str(ROOT / "configs/rtmdet/lad_rtmdet-nano_rtmdet-mini_digits.py")),
            "plain detector",
        ),
        (
            [],
            dict(student="mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py"),
            "reads LVISV1Dataset",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_left(
    data, monkeypatch, capsys, arguments, options, message
):
    assert message in refused(monkeypatch, capsys, *arguments, **options)
    assert sorted(file.name for file in data.iterdir() if file.name != "mine") == []


def test_a_teacher_of_other_classes_is_refused_with_the_way_out(data, monkeypatch, capsys):
    line = refused(monkeypatch, capsys, "--checkpoint", checkpoint(data, ["cat", "dog", "cow"]))
    assert "the teacher knows 3 classes" in line
    assert "leave --checkpoint out" in line


def test_existing_files_are_kept_unless_forced(data, monkeypatch, capsys):
    (data / "out_student.py").write_text("mine")
    assert "out_student.py exists" in refused(monkeypatch, capsys)
    assert (data / "out_student.py").read_text() == "mine"
    # A failure keeps them too.
    refused(monkeypatch, capsys, "--force", "--method", "crosskd")
    assert (data / "out_student.py").read_text() == "mine"
    run(monkeypatch, "--force")
    assert "_base_" in (data / "out_student.py").read_text()


def yolo(folder):
    """The images as YOLO's, a box on each."""
    for split in ("train", "val"):
        for file in (folder / f"mine/{split}").glob("*.png"):
            moved = folder / f"yolo/images/{split}" / file.name
            moved.parent.mkdir(parents=True, exist_ok=True)
            moved.write_bytes(file.read_bytes())
            label = folder / f"yolo/labels/{split}" / f"{file.stem}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("0 0.5 0.5 0.5 0.5")
    (folder / "yolo/data.yaml").write_text("names: [cat, dog]\ntrain: images/train\nval: images/val\n")


def test_annotations_in_another_order_than_the_teachers_classes_are_copied_into_it(data, monkeypatch, capsys):
    before = (data / "mine/annotations/train.json").read_bytes()
    run(monkeypatch, "--checkpoint", checkpoint(data, ["dog", "cat"]))
    assert (data / "mine/annotations/train.json").read_bytes() == before
    cfg = load_config("out.py")
    for split, loader in (("train", cfg.train_dataloader), ("val", cfg.val_dataloader)):
        content = json.loads((data / f"out_annotations/{split}.json").read_text())
        assert content["categories"] == [dict(id=2, name="dog"), dict(id=1, name="cat")]
        dataset = DATASETS.build(loader.dataset)
        assert dataset.metainfo["classes"] == ("dog", "cat")
        # Image 0 has the cat.
        assert [one["bbox_label"] for one in dataset.get_data_info(0)["instances"]] == [1]
    # A training's own check of the files finds nothing.
    from lad.cli.checks import check_dataset_files

    check_dataset_files(cfg)


def test_converted_annotations_are_kept_unless_forced_and_taken_back_where_it_fails(
    data, monkeypatch, capsys
):
    yolo(data)
    mine = data / "out_annotations/val.json"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert "out_annotations/val.json exists" in refused(monkeypatch, capsys, "--data", "yolo")
    assert [file.name for file in mine.parent.iterdir()] == ["val.json"]
    assert "no checkpoint" in refused(
        monkeypatch, capsys, "--data", "yolo", "--force", "--checkpoint", "gone.pth"
    )
    refused(monkeypatch, capsys, "--data", "yolo", "--force", "--method", "crosskd")
    assert mine.read_text() == "mine"
    mine.unlink()
    mine.parent.rmdir()
    refused(monkeypatch, capsys, "--data", "yolo", "--method", "crosskd")
    assert sorted(file.name for file in data.iterdir()) == ["mine", "yolo"]
    run(monkeypatch, "--data", "yolo")
    assert len(json.loads(mine.read_text())["annotations"]) == 3


def test_a_config_that_is_read_is_not_written_over(data, monkeypatch, capsys):
    own = data / "own.py"
    own.write_text(f"_base_ = {STUDENT!r}")
    line = refused(monkeypatch, capsys, "--force", student="own.py", out="own.py")
    assert "--student own.py is one of the files that are written" in line
    assert own.read_text() == f"_base_ = {STUDENT!r}"


def test_commands_are_quoted_for_a_shell_and_nothing_else_is_printed(data, monkeypatch, capsys):
    run(monkeypatch, out="a b/it's.py")
    out = capsys.readouterr().out
    assert """\n  lad train 'a b/it'"'"'s.py' --auto-scale-lr\n""" in out
    assert "mmengine - INFO" not in out
