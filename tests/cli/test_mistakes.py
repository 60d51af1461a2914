"""What users get wrong ends in one readable line that says what to change."""

import copy
import runpy
import sys

from lad.base.config import detector_config
from lad.datasets import DigitsParameters, make_digits
from lad.errors import ConfigError, UnsupportedError

import pytest
import torch
from helpers import ROOT, Malicious, build, save_checkpoint, small_detector, small_paa
from mmdet.registry import MODELS

LAD = [dict(type="LabelAssignmentDistillation")]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes") / "digits"
    make_digits(folder, DigitsParameters(images=4, val_images=2))
    return folder


def distil(student, teacher, tmp_path, methods=LAD):
    path = save_checkpoint(build(teacher), tmp_path / "teacher.pth")
    return MODELS.build(
        dict(
            type="DistillationDetector",
            student=copy.deepcopy(student),
            teacher=dict(copy.deepcopy(teacher), checkpoint=path),
            methods=copy.deepcopy(methods),
        )
    )


@pytest.mark.parametrize(
    "config",
    [
        "mmdet::atss/atss_r50_fpn_1x_coco.py",
        "mmdet::gfl/gfl_r50_fpn_1x_coco.py",
        "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
        "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    ],
)
def test_heads_that_decide_from_anchors_alone_are_refused_by_name(config, tmp_path):
    model = small_detector(config)
    with pytest.raises(UnsupportedError) as caught:
        distil(model, model, tmp_path)
    message = str(caught.value)
    assert f"{model.type} ({model.bbox_head.type})" in message
    assert (
        "works with PAAHead, BatchedPAAHead, TOODHead, RTMDetHead, RTMDetSepBNHead, YOLOXHead, DDODHead"
        in message
    )
    assert "\n" not in message


def test_two_stage_detector_is_refused_by_name(tmp_path):
    config = small_detector("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    with pytest.raises(UnsupportedError, match=r"FasterRCNN \(no bbox_head\)"):
        distil(config, config, tmp_path)


def test_ladhead_as_student_is_answered_with_the_head_to_use(tmp_path):
    with pytest.raises(UnsupportedError, match="use BatchedPAAHead"):
        distil(small_paa("LADHead"), small_paa(), tmp_path)


def test_different_numbers_of_classes_are_named(tmp_path):
    with pytest.raises(UnsupportedError, match="student has 3 classes and the teacher 5"):
        distil(small_paa(), small_paa(num_classes=5), tmp_path)


def test_different_strides_and_anchors_are_named(tmp_path):
    teacher = small_paa(anchor_generator=dict(strides=[4, 8, 16, 32, 64]))
    with pytest.raises(
        UnsupportedError, match=r"\[8, 16, 32, 64, 128\] are not the teacher's \[4, 8, 16, 32, 64\]"
    ):
        distil(small_paa(), teacher, tmp_path)
    with pytest.raises(UnsupportedError, match="different anchors"):
        distil(small_paa(), small_paa(anchor_generator=dict(octave_base_scale=4)), tmp_path)


def test_feature_maps_of_other_sizes_are_found_at_the_first_batch(tmp_path):
    from helpers import make_batch

    teacher = small_paa()
    teacher.neck.start_level = 0  # finer maps than the anchors' strides say
    teacher.neck.num_outs = 5
    with pytest.raises(UnsupportedError, match="feature maps differ in size"):
        distil(small_paa(), teacher, tmp_path).train().loss(*make_batch())


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("mmdet::paa/paa_r50_fpn_1x_cocoo.py", r"in mmdet; nearest: paa/paa_r50"),
        ("nowhere.py", r"there is no config 'nowhere.py'"),
        (dict(backbone=dict()), r"student needs 'config' \(a path\) or 'type'"),
        (3, "student must be a config path or a dict, got int"),
        ("mmdet::_base_/default_runtime.py", "has no `model`"),
        ("mmdett::x.py", "package 'mmdett' is not installed"),
    ],
)  # fmt: skip
def test_descriptions_of_a_detector_that_are_none(student, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        distil(student, small_paa(), tmp_path)


def test_overrides_merge_and_delete_as_in_a_derived_config():
    config = detector_config(
        dict(config="mmdet::paa/paa_r50_fpn_1x_coco.py", backbone=dict(_delete_=True, type="SwinTransformer"),
             bbox_head=dict(type="BatchedPAAHead", topk=5)),
        "student",
    )  # fmt: skip
    assert config.backbone == dict(type="SwinTransformer")
    assert config.bbox_head.type == "BatchedPAAHead"
    assert config.bbox_head.topk == 5
    assert config.bbox_head.stacked_convs == 4


def test_unknown_mode_is_named(tmp_path):
    with pytest.raises(ConfigError, match="mode must be 'hard' or 'soft', got 'medium'"):
        distil(small_paa(), small_paa(), tmp_path, [dict(type="LabelAssignmentDistillation", mode="medium")])


LAD_CONFIG = "configs/lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits.py"
STUDENT_CONFIG = "configs/lad/paa_r18-c16_fpn_digits.py"


def train(capsys, monkeypatch, tmp_path, config, *options, tool="train.py", before=()):
    """Run a tool in this process; returns its exit code and its last line of error output."""
    monkeypatch.chdir(ROOT)
    arguments = [tool, config, *before, "--work-dir", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", [*arguments, *(["--cfg-options", *options] if options else [])])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return caught.value.code, errors[0]


def data(digits):
    return [
        *(f"{name}_dataloader.dataset.data_root={digits}/" for name in ("train", "val")),
        *(f"{name}_dataloader.num_workers=0" for name in ("train", "val")),
        *(f"{name}_dataloader.persistent_workers=False" for name in ("train", "val")),
        f"val_evaluator.ann_file={digits}/annotations/val.json",
    ]


def test_no_such_config(capsys, monkeypatch, tmp_path):
    code, line = train(capsys, monkeypatch, tmp_path, "configs/lad/paa_r18-c16_fpn_digit.py")
    assert code == 2
    assert "nearest: configs/lad/paa_r18-c16_fpn_digits.py" in line


def test_no_such_data(capsys, monkeypatch, tmp_path):
    code, line = train(
        capsys, monkeypatch, tmp_path, STUDENT_CONFIG, "train_dataloader.dataset.data_root=/nowhere/"
    )
    assert code == 2
    assert "there is no annotation file /nowhere/annotations/train.json; set train_dataloader" in line


def test_teacher_not_trained_yet(capsys, monkeypatch, tmp_path, digits):
    options = [*data(digits), "model.teacher.checkpoint=/nowhere/teacher.pth"]
    code, line = train(capsys, monkeypatch, tmp_path, LAD_CONFIG, *options)
    assert code == 2
    assert "there is no checkpoint '/nowhere/teacher.pth'" in line


def test_teacher_of_another_architecture(capsys, monkeypatch, tmp_path, digits):
    path = save_checkpoint(build(small_paa()), tmp_path / "other.pth")
    code, line = train(
        capsys, monkeypatch, tmp_path, LAD_CONFIG, *data(digits), f"model.teacher.checkpoint={path}"
    )
    assert code == 2
    assert "of another architecture or number of classes" in line


def test_wrong_number_of_classes_for_the_data(capsys, monkeypatch, tmp_path, digits):
    code, line = train(
        capsys, monkeypatch, tmp_path, STUDENT_CONFIG, *data(digits), "model.bbox_head.num_classes=7"
    )
    assert code == 2
    assert "bbox_head has num_classes=7 but the training data has 10 classes" in line


def test_teacher_that_knows_the_classes_in_another_order(capsys, monkeypatch, tmp_path, digits):
    from lad.base.config import load_config

    teacher = MODELS.build(load_config(str(ROOT / "configs/lad/paa_r18-c32_fpn_digits.py")).model)
    path = save_checkpoint(teacher, tmp_path / "t.pth", dataset_meta=dict(classes=tuple("1023456789")))
    code, line = train(
        capsys, monkeypatch, tmp_path, LAD_CONFIG, *data(digits), f"model.teacher.checkpoint={path}"
    )
    assert code == 2
    assert "class 0 is '1' for the teacher and '0' here" in line


def test_empty_data_set(capsys, monkeypatch, tmp_path, digits):
    code, line = train(
        capsys,
        monkeypatch,
        tmp_path,
        STUDENT_CONFIG,
        *data(digits),
        "train_dataloader.dataset.filter_cfg.min_size=999",
    )
    assert code == 2
    assert "no image is left to train on" in line


def test_misspelt_type(capsys, monkeypatch, tmp_path, digits):
    code, line = train(
        capsys, monkeypatch, tmp_path, STUDENT_CONFIG, *data(digits), "model.bbox_head.type=BatchPAAHead"
    )
    assert code == 2
    assert "BatchPAAHead is not in the mmdet::model registry" in line


def test_checkpoint_to_resume_from_is_absent_or_malicious(capsys, monkeypatch, tmp_path, digits):
    code, line = train(
        capsys,
        monkeypatch,
        tmp_path,
        STUDENT_CONFIG,
        *data(digits),
        before=["--resume", "/nowhere/epoch_3.pth"],
    )
    assert code == 2
    assert "/nowhere/epoch_3.pth can not be found" in line


@pytest.mark.parametrize("how", ["resume", "load_from"])
def test_malicious_checkpoint_is_refused_by_the_tool(capsys, monkeypatch, tmp_path, digits, how):
    target = tmp_path / "written"
    torch.save(dict(state_dict={}, extra=Malicious(target)), tmp_path / "bad.pth")
    bad = str(tmp_path / "bad.pth")
    before, more = (["--resume", bad], []) if how == "resume" else ([], [f"load_from={bad}"])
    code, line = train(capsys, monkeypatch, tmp_path, STUDENT_CONFIG, *data(digits), *more, before=before)
    assert code == 2
    assert "names posix.system" in line
    assert not target.exists()


def test_test_tool_without_checkpoint(capsys, monkeypatch, tmp_path):
    code, line = train(
        capsys, monkeypatch, tmp_path, STUDENT_CONFIG, tool="test.py", before=["/nowhere/epoch_1.pth"]
    )
    assert code == 2
    assert "there is no checkpoint '/nowhere/epoch_1.pth'" in line
