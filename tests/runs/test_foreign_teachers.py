"""Whole runs with teachers that are no MMDetection detectors, through the command line, on a few real digits."""

import json

from lad.datasets import DigitsParameters, make_digits
from lad.networks.building import without_pretraining

import pytest
import torch
from fault_runs import run_script
from helpers import ROOT
from mmdet.apis import init_detector
from mmdet.registry import MODELS
from test_training import options, scalars, train

PLAIN = str(ROOT / "configs/rtmdet/rtmdet_nano_digits.py")
FROM_FILE = str(ROOT / "configs/foreign_teachers/pseudo_rtmdet-nano_rtmdet-mini_digits.py")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Twelve training images, and a result file that finds their objects, each with the score 0.8."""
    folder = tmp_path_factory.mktemp("foreign")
    make_digits(folder / "digits", DigitsParameters(images=12, val_images=4))
    content = json.loads((folder / "digits/annotations/train.json").read_text())
    keys = ("image_id", "category_id", "bbox")
    found = [dict({key: one[key] for key in keys}, score=0.8) for one in content["annotations"]]
    (folder / "found.json").write_text(json.dumps(found))
    return folder


def file_options(workplace, **more):
    return options(
        workplace,
        **{
            "model.teacher.file": f"{workplace}/found.json",
            "model.teacher.ann_file": f"{workplace}/digits/annotations/train.json",
            **more,
        },
    )


def test_student_learns_from_a_file_in_a_worker_process_and_its_checkpoint_is_plain(workplace):
    hard = {
        "model.methods.0.targets": "hard",
        "train_dataloader.num_workers": 1,
        "model.methods.0.min_score": 0.5,
    }
    train(FROM_FILE, workplace / "file", *file_options(workplace, **hard))
    for line in scalars(workplace / "file"):
        # The file's boxes are the annotations': the same loss twice.
        assert line["loss_detections_bbox"] == pytest.approx(line["loss_bbox"], rel=1e-4)
        assert line["loss_detections_cls"] == pytest.approx(line["loss_cls"], rel=1e-4)
    init_detector(PLAIN, str(workplace / "file/epoch_1.pth"), device="cpu")
    weights = torch.load(workplace / "file/epoch_1.pth", weights_only=False)["state_dict"]
    assert not [key for key in weights if key.startswith("distillation.")]


def test_zero_weight_is_plain_training(workplace):
    train(PLAIN, workplace / "plain", *options(workplace))
    train(FROM_FILE, workplace / "zero", *file_options(workplace, **{"model.methods.0.loss_weight": 0.0}))
    own = [
        {name: value for name, value in line.items() if name in ("loss_cls", "loss_bbox")}
        for line in scalars(workplace / "zero")
    ]
    assert len(own) == 3
    assert own == [
        pytest.approx({k: line[k] for k in ("loss_cls", "loss_bbox")})
        for line in scalars(workplace / "plain")
    ]


def test_a_file_of_other_images_stops_the_run_in_one_line(workplace, tmp_path):
    other = [dict(image_id=1000, category_id=1, bbox=[1, 2, 3, 4], score=0.5)]
    (tmp_path / "other.json").write_text(json.dumps(other))
    more = {"model.teacher.file": f"{tmp_path}/other.json"}
    done = run_script(
        ROOT / "tools/train.py", FROM_FILE, "--work-dir", tmp_path / "run", *file_options(workplace, **more)
    )
    assert done.returncode == 2
    last = f"{done.stdout}\n{done.stderr}".strip().splitlines()[-1]
    assert "names none of the 12 training images" in last


def test_run_with_a_feature_teacher_is_resumed_with_its_weight(workplace, tmp_path):
    backbone = dict(type="ResNet", depth=18, base_channels=8)
    torch.save(MODELS.build(without_pretraining(backbone)).state_dict(), tmp_path / "net.pth")
    config = tmp_path / "features.py"
    config.write_text(
        f"""_base_ = {str(ROOT / "configs/rtmdet/rtmdet_nano_digits.py")!r}
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student={PLAIN!r},
    teacher=dict(
        type="FeatureTeacher",
        model=dict(type="ResNet", depth=18, base_channels=8),
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        checkpoint={str(tmp_path / "net.pth")!r},
    ),
    methods=[
        dict(
            type="FeatureDistillation",
            student="neck[2]",
            teacher="backbone",
            loss=dict(type="CosineLoss"),
            loss_weight=dict(type="gradient_share", share=0.2, momentum=0.5),
        )
    ],
)
"""
    )
    two = {"train_cfg.max_epochs": 2, "default_hooks.checkpoint.max_keep_ckpts": 2}
    train(config, tmp_path / "whole", *options(workplace, **two))
    train(config, tmp_path / "half", "--resume", tmp_path / "whole/epoch_1.pth", *options(workplace, **two))
    key = "distillation.FeatureDistillation.loss_weight.weight"
    whole, again = (
        torch.load(tmp_path / name / "epoch_2.pth", weights_only=False)["state_dict"][key]
        for name in ("whole", "half")
    )
    assert float(whole) != 1.0
    assert float(whole) == float(again)
