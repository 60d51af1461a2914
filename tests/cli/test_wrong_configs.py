"""Wrong configs, each answered with one line that says what to change. A new mistake is a new line in a table."""

import copy
import re
import time
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from lad.base.config import load_config
from lad.cli.arguments import prepare_training
from lad.cli.checks import check_training
from lad.cli.messages import config_errors, explain, one_line_errors
from lad.datasets import DigitsParameters, make_digits
from lad.engine.plain_config import plain_configs
from lad.errors import ConfigError, DataError
from lad.networks.shapes import check_shapes

import pytest
import torch
from detr_detectors import small_detr
from helpers import ROOT, build, save_checkpoint, small_detector
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.runner import Runner
from stacks import LAYOUT

STUDENT = ROOT / "configs/lad/paa_r18-c16_fpn_digits.py"
LAD = ROOT / "configs/lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits.py"
COLAD = ROOT / "configs/colad/colad_paa-r18-c16_paa-r18-c32_fpn_digits.py"
RCNN = ROOT / "configs/faster_rcnn/frcnn-all_faster-rcnn-r18-c16_faster-rcnn-r18-c32_fpn_digits.py"

HEAD, NECK, DATA = "model.bbox_head", "model.neck", "train_dataloader.dataset"

# What is set (None for a config, its path otherwise) and what the line must say.
PLAIN_MISTAKES = [
    # Names
    ({"model.type": "PAAA"}, "PAAA is not in the mmdet::model registry; nearest: PAA"),
    ({"model.backbone.type": "ResNeXT"}, "ResNeXT is not in .* nearest: ResNeXt"),
    ({f"{NECK}.type": "FNP"}, "FNP is not in .* nearest: .*FPN"),
    ({f"{HEAD}.loss_cls.type": "FocalLos"}, "FocalLos is not in .* nearest: FocalLoss"),
    ({"default_hooks.logger.type": "LogerHook"}, "LogerHook is not in the mmdet::hook registry; nearest: LoggerHook"),
    ({"optim_wrapper.type": "OptimWraper"}, "OptimWraper is not in .* nearest: OptimWrapper"),
    ({"optim_wrapper.optimizer.type": "SDG"}, r"optim_wrapper.optimizer: there is no 'SDG'; nearest: .*SGD"),
    ({"param_scheduler.0.type": "LinearLr"}, "LinearLr is not in .* nearest: LinearLR"),
    ({f"{DATA}.type": "DigitDataset"}, "DigitDataset is not in .* nearest: DigitsDataset"),
    ({f"{DATA}.pipeline.2.type": "Resise"}, "Resise is not in .* nearest: Resize"),
    ({"train_dataloader.sampler.type": "DefaultSampeler"}, "DefaultSampeler is not in .* nearest: DefaultSampler"),
    ({"val_evaluator.type": "CocoMetrics"}, "CocoMetrics is not in .* nearest: CocoMetric"),
    ({"train_cfg.type": "EpochLoop"}, "EpochLoop is not in .* nearest: EpochBasedTrainLoop"),
    ({"model.test_cfg.nms.type": "nmss"}, "model.test_cfg.nms: there is no 'nmss'; nearest: nms"),
    # Arguments
    ({f"{HEAD}.num_class": 3}, r"dict\(type='BatchedPAAHead'\) .* unexpected keyword argument 'num_class'"),
    ({"model.backbone.deep": 3}, r"dict\(type='ResNet'\) .* unexpected keyword argument 'deep'"),
    ({"optim_wrapper.optimizer.rate": 1}, r"dict\(type='AdamW'\) .* unexpected keyword argument 'rate'"),
    ({f"{DATA}.pipeline.2.size": 3}, r"dict\(type='Resize'\) .* unexpected keyword argument 'size'"),
    ({f"{DATA}.anns": "x"}, r"dict\(type='DigitsDataset'\) .* unexpected keyword argument 'anns'"),
    ({"model.backbone.depth": 19}, r"dict\(type='ResNet'\) .* invalid depth 19"),
    ({"default_hooks.numerical_faults": dict(type="NumericalFaultHook", policy="ignore")}, "must be 'stop' or 'skip'"),
    ({"default_hooks.preemption": dict(type="PreemptionHook", signals=["SIGTREM"])}, "there is no signal 'SIGTREM'"),
    ({"bad_data": dict(images="ignore")}, "bad_data must be like dict"),
    # Shapes
    ({f"{NECK}.in_channels": [16, 32, 64]}, r"neck \(FPN\) has in_channels for 3 feature maps .* 16, 32, 64, 128"),
    ({f"{NECK}.in_channels": [16, 32, 64, 256]}, r"neck \(FPN\) cannot take .* it wants 256 channels; set its in_ch"),
    ({f"{HEAD}.in_channels": 48}, r"bbox_head \(BatchedPAAHead\) cannot take 5 maps .* it wants 48 channels"),
    ({f"{NECK}.num_outs": 4}, "strides for 5 feature maps .* is given 4 maps .* set its strides, or the neck's num"),
    # Strides
    ({f"{HEAD}.anchor_generator.strides": [4, 8, 16, 32, 64]}, "stride 4 for feature map 0, which has a stride of 8"),
    ({f"{HEAD}.anchor_generator.strides": [8, 16, 32]}, r"strides for 3 feature maps \(\[8, 16, 32\]\)"),
    # Classes
    ({f"{HEAD}.num_classes": 7}, "num_classes=7 but the training data has 10 classes"),
    ({f"{HEAD}.num_classes": "ten"}, "num_classes must be a number .BatchedPAAHead., got str 'ten'"),
    ({f"{DATA}.metainfo.classes": ["zero", "1"]}, "classes of .*val.json are 0, 1, .* are zero, 1"),
    # Missing files
    ({f"{DATA}.ann_file": "annotations/trian.json"}, "there is no annotation file .*trian.json; set train_dataloader"),
    ({f"{DATA}.data_prefix.img": "images/trian/"}, "there is no image folder .*images/trian; set train_dataloader"),
    ({"val_dataloader.dataset.ann_file": "none.json"}, "val_dataloader: there is no annotation file .*none.json"),
    ({"val_evaluator.ann_file": "none.json"}, "val_evaluator: there is no annotation file none.json; set val_eval"),
    ({"load_from": "/nowhere/x.pth"}, "/nowhere/x.pth can not be found"),
    ({"model.backbone.init_cfg": dict(type="Pretrained", checkpoint="/nowhere/r.pth")}, "/nowhere/r.pth can not be"),
    # Wrong types and values
    ({"train_cfg.max_epochs": "three"}, "train_cfg.max_epochs must be a number .* 'three'"),
    ({"train_dataloader.batch_size": 0}, "batch_size should be a positive integer value, but got batch_size=0"),
    ({"train_dataloader.num_workers": -1}, "num_workers option should be non-negative"),
    ({"train_dataloader.persistent_workers": True}, "persistent_workers option needs num_workers > 0"),
    ({"optim_wrapper.optimizer.lr": "fast"}, "optim_wrapper.optimizer.lr must be a number .AdamW., got str 'fast'"),
    ({"optim_wrapper.optimizer.lr": -0.1}, r"dict\(type='AdamW'\) .* Invalid learning rate: -0.1"),
    ({"optim_wrapper.clip_grad": 35}, "optim_wrapper.clip_grad must be a dict .OptimWrapper., got int 35"),
    ({"optim_wrapper": "AdamW"}, "optim_wrapper must be a dict, got str 'AdamW'"),
    ({"train_dataloader": [1]}, r"train_dataloader must be a dict, got list \[1\]"),
    ({"train_dataloader.dataset": "train.json"}, "train_dataloader.dataset must be a dict, got str 'train.json'"),
    ({"val_evaluator": "CocoMetric"}, "val_evaluator must be a dict or a list, got str"),
    ({"param_scheduler": "LinearLR"}, "param_scheduler must be a dict or a list, got str"),
    ({"param_scheduler": [3]}, "param_scheduler.0 must be a dict, got int 3"),
    ({"param_scheduler.0.type": {}}, r"param_scheduler.0.type must be the name of a class, got ConfigDict \{\}"),
    ({"default_hooks": ["LoggerHook"]}, "default_hooks must be a dict, got list"),
    ({"default_hooks.logger": "LoggerHook"}, "default_hooks.logger must be a dict, got str 'LoggerHook'"),
    ({"default_hooks.logger": [dict(type="LoggerHook")]}, "default_hooks.logger must be a dict, got list"),
    ({"custom_hooks": dict(type="EMAHook")}, "custom_hooks must be a list, got ConfigDict"),
    ({"custom_hooks": ["EMAHook"]}, "custom_hooks.0 must be a dict, got str 'EMAHook'"),
    ({"custom_imports": "lad"}, "custom_imports must be a dict, got str 'lad'"),
    ({"load_from": 3}, "load_from must be a text, got int 3"),
    ({"load_from": ["a.pth"]}, "load_from must be a text, got list"),
    ({"load_strict": "no"}, "load_strict must be True or False, got str 'no'"),
    ({"resume": "auto"}, "resume must be True or False, got str 'auto'"),
    ({"randomness.seed": "three"}, "randomness.seed must be an integer, got str 'three'"),
    ({"auto_scale_lr": [16]}, "auto_scale_lr must be a dict, got list"),
    ({"optim_wrapper.optimizer": "AdamW"}, "optim_wrapper.optimizer must be a dict, got str 'AdamW'"),
    ({"optim_wrapper.accumulative_counts": "two"}, "optim_wrapper.accumulative_counts must be an integer, got str"),
    ({"optim_wrapper.accumulative_counts": True}, "accumulative_counts must be an integer, got bool True"),
    ({"optim_wrapper.type": 7}, "optim_wrapper.type must be the name of a class, got int 7"),
    ({"model": "PAA"}, "model must be a dict, got str 'PAA'"),
    ({"model.type": ["PAA"]}, r"model.type must be the name of a class, got list \['PAA'\]"),
    ({"model.backbone": "ResNet"}, "model.backbone must be a dict .PAA., got str 'ResNet'"),
    ({"model.neck": [3]}, r"model.neck must be a dict .PAA., got list \[3\]"),
    ({"model.backbone.depth": None}, r"dict\(type='ResNet'\) of the config cannot be built"),
    ({"model": None}, "the config has no 'model': it describes no training"),
    ({"val_evaluator": None}, "validation needs .*; val_evaluator is None: set it, or all to None"),
]  # fmt: skip


def student(**bbox_head):
    """The student's config with another head."""
    return dict(_delete_=True, config="configs/lad/paa_r18-c16_fpn_digits.py", bbox_head=bbox_head)


METHOD, TEACHER = "model.methods", "model.teacher"
SWITCH = "model.methods.0.switch"
DISTILLATION_MISTAKES = [
    (LAD, {f"{METHOD}.0.type": "LabelDistillation"}, "LabelDistillation is not in .* nearest: .*Distillation"),
    (LAD, {f"{METHOD}.0.mode": "medium"}, "mode must be 'hard' or 'soft', got 'medium'"),
    (LAD, {f"{METHOD}.0.weight": 2}, r"dict\(type='LabelAssignmentDistillation'\) .* argument 'weight'"),
    (LAD, {f"{TEACHER}.checkpoint": None}, "teacher needs a checkpoint"),
    (LAD, {f"{TEACHER}.checkpoint": "/nowhere/t.pth"}, "there is no checkpoint '/nowhere/t.pth'"),
    (LAD, {f"{TEACHER}.config": "configs/lad/paa_r18.py"}, "there is no config 'configs/lad/paa_r18.py'; nearest"),
    (LAD, {f"{TEACHER}.speed": dict(fusion=True)}, "speed takes inference_mode, .* got .'fusion'"),
    (LAD, {f"{TEACHER}.backbone.base_channels": 8}, "of another architecture or number of classes"),
    (LAD, {"model.student": 3}, "student must be a config path or a dict, got int"),
    (LAD, {f"{TEACHER}.config": dict(type="PAA")}, "teacher: config must be the path of a config file, got ConfigDict"),
    (LAD, {f"{TEACHER}.config": 3}, "teacher: config must be the path of a config file, got int"),
    (LAD, {f"{TEACHER}.config": ["a.py"]}, "teacher: config must be the path of a config file, got list"),
    (LAD, {"model.student": dict(_delete_=True, config=dict(type="PAA"))}, "student: config must be the path"),
    (LAD, {TEACHER: "paa.py"}, "teacher needs a checkpoint"),
    (LAD, {TEACHER: [dict(config="paa.py")]}, "teacher needs a checkpoint"),
    (LAD, {f"{TEACHER}.checkpoint": 3}, "checkpoint"),
    (LAD, {f"{TEACHER}.checkpoint": ["t.pth"]}, "checkpoint"),
    (LAD, {"model.teachers": "a"}, "got both"),
    (LAD, {METHOD: "LabelAssignmentDistillation"}, "methods"),
    (LAD, {METHOD: [3]}, "method"),
    (LAD, {METHOD: None}, "methods"),
    (LAD, {"model.exits": [3]}, "exits must be like"),
    (LAD, {"model.exits": dict(student=3)}, "exits must be like"),
    (LAD, {"model.deploy": 3}, "deploy=3"),
    (LAD, {"model.student_loss": "no"}, "student_loss"),
    (COLAD, {"model.networks": ["a.py", "b.py"]}, "networks"),
    (COLAD, {"model.networks.big": 3}, "network big must be a config path or a dict, got int"),
    (COLAD, {"model.networks.big": None}, "network big must be a config path or a dict, got NoneType"),
    (COLAD, {"model.deploy": ["big"]}, r"deploy=\['big'\]"),
    (COLAD, {SWITCH: "StdMeanSwitch"}, "switch must be a dict .CoLearningAssignment., got str"),
    (COLAD, {SWITCH: [3]}, r"switch must be a dict .CoLearningAssignment., got list \[3\]"),
    (LAD, {"model.student": dict(_delete_=True, backbone=dict())}, r"student needs 'config' \(a path\) or 'type'"),
    (LAD, {"model.student": student(num_classes=7)}, "student has 7 classes and the teacher 10"),
    (LAD, {"model.student": student(anchor_generator=dict(strides=[4, 8, 16, 32, 64]))}, "are not the teacher's"),
    # A loss, or something else, in the place of a method
    (LAD, {f"{METHOD}.0": dict(_delete_=True, type="FGDLoss")}, "FGDLoss is a loss, not a method: .*'FeatureDist"),
    (LAD, {f"{METHOD}.0": dict(_delete_=True, type="KDLoss")}, "KDLoss is a loss, .* made for DenseLogitDistillation"),
    (LAD, {f"{METHOD}.0": dict(_delete_=True, type="LADHead")}, "LADHead is no distillation method; docs/methods.md"),
    # A method on a detector that it does not fit
    (LAD, {"model.student": "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"}, r"RetinaNet .* works with PAAHead"),
    (LAD, {f"{METHOD}.0.type": "RPNDistillation"}, "PAA.* rpn_head"),
    (LAD, {f"{METHOD}.0": dict(type="HintDistillation", student="nck", teacher="neck")}, "nck"),
    # Several teachers, inheriting
    (LAD, {f"{METHOD}.0.taught_by": "b"}, "taught_by names no teacher 'b'; there are teacher"),
    (LAD, {f"{METHOD}.0.taught_by": 3}, "taught_by must be the name of a teacher or a list of names, got 3"),
    (LAD, {f"{METHOD}.0.ensemble": "average"}, "several teachers .* go with ensemble='average'"),
    (LAD, {"model.teachers": dict(a=dict(checkpoint="x"))}, "teachers=dict.*; got both"),
    (LAD, {"model.initialise_from_teacher": ["nek"]}, "has no module 'nek'; nearest: neck"),
    (LAD, {"model.initialise_from_teacher": ["backbone.conv1"]}, "no weight of backbone.conv1 agrees .* the teacher's"),
    (LAD, {"model.initialise_from_teacher": 3}, "initialise_from_teacher must be like"),
    (COLAD, {f"{SWITCH}.per": "level"}, "per"),
    (COLAD, {f"{SWITCH}.type": "StdSwitch"}, "StdSwitch is not in .* nearest: StdMeanSwitch"),
    (COLAD, {"model.predict_with": "big"}, "predict_with='big': it is 'ensemble', or left out"),
    (COLAD, {"model.deploy": "bog"}, "deploy='bog' is no network; nearest: big"),
]  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    make_digits(folder / "digits", DigitsParameters(images=4, val_images=2))
    teacher = build(load_config(str(ROOT / "configs/lad/paa_r18-c32_fpn_digits.py")).model)
    save_checkpoint(teacher, folder / "teacher.pth")
    return folder


def settings(workplace):
    data = f"{workplace}/digits/"
    loaders = ("train_dataloader", "val_dataloader")
    return {
        **{f"{name}.dataset.data_root": data for name in loaders},
        **{f"{name}.num_workers": 0 for name in loaders},
        **{f"{name}.persistent_workers": False for name in loaders},
        "val_evaluator.ann_file": f"{data}annotations/val.json",
        "test_dataloader": None,
        "test_evaluator": None,
        "test_cfg": None,
    }


def answer(workplace, config, options, capsys):
    """What tools/train.py says up to the first step; None where it would train."""
    with ExitStack() as stack:
        # What takes time and does not matter: gcc's version, the config laid out nicely, the training itself.
        for name in ("_log_env", "dump_config"):
            stack.enter_context(mock.patch.object(Runner, name, return_value=None))
        stack.enter_context(mock.patch(LAYOUT, lambda text, **_: (text, True)))
        stack.enter_context(mock.patch("lad.engine.loops._Resumable.run", return_value=None))
        capsys.readouterr()
        try:
            with one_line_errors():
                cfg = load_config(str(config))
                cfg.launcher, cfg.work_dir = "none", str(workplace / "work")
                cfg.experiment_name = f"wrong_{time.time_ns()}"
                cfg.merge_from_dict(settings(workplace))
                if "teacher" in cfg.model:
                    cfg.model.teacher.checkpoint = str(workplace / "teacher.pth")
                for path, value in options.items():
                    put(cfg, path, value)
                with config_errors():
                    prepare_training(cfg, amp=False, auto_scale_lr=False, resume=None)
                    plain_configs(cfg)
                    runner = Runner.from_cfg(cfg)
                    check_training(runner)
                runner.train()
        except SystemExit:
            (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
            return line
    return None


def put(cfg, path, value):
    """Set what a dotted path names: as ``--cfg-options`` does, or in its place where it is of another type."""
    *parents, last = path.split(".")
    owner = cfg._cfg_dict
    for key in parents:
        owner = owner[int(key)] if isinstance(owner, (list, tuple)) else owner.setdefault(key, ConfigDict())
    before = owner.get(last) if isinstance(owner, dict) else owner[int(last)]
    if isinstance(value, dict) and ("_delete_" in value or not isinstance(before, (str, list))):
        cfg.merge_from_dict({path: copy.deepcopy(value)})
    else:
        owner[last if isinstance(owner, dict) else int(last)] = copy.deepcopy(value)


def name_of(row):
    return "-".join(str(part.stem if isinstance(part, Path) else next(iter(part))) for part in row[:-1])


@pytest.mark.parametrize(("options", "says"), PLAIN_MISTAKES, ids=[name_of(row) for row in PLAIN_MISTAKES])
def test_wrong_config_is_answered_in_one_line(workplace, capsys, monkeypatch, options, says):
    monkeypatch.chdir(ROOT)
    line = answer(workplace, STUDENT, options, capsys)
    assert line is not None, "it would be trained"
    assert re.search(says, line), line


@pytest.mark.parametrize(
    ("config", "options", "says"), DISTILLATION_MISTAKES, ids=[name_of(row) for row in DISTILLATION_MISTAKES]
)
def test_wrong_distillation_is_answered_in_one_line(workplace, capsys, monkeypatch, config, options, says):
    monkeypatch.chdir(ROOT)
    line = answer(workplace, config, options, capsys)
    assert line is not None, "it would be trained"
    assert re.search(says, line), line


@pytest.mark.parametrize("config", [STUDENT, LAD, COLAD, RCNN], ids=lambda path: path.stem)
def test_right_config_passes(workplace, capsys, monkeypatch, config):
    """Control: what the tables change is all that is wrong."""
    monkeypatch.chdir(ROOT)
    if config is RCNN:
        teacher = build(
            load_config(str(ROOT / "configs/faster_rcnn/faster-rcnn_r18-c32_fpn_digits.py")).model
        )
        options = {"model.teacher.checkpoint": save_checkpoint(teacher, workplace / "rcnn.pth")}
    else:
        options = {}
    assert answer(workplace, config, options, capsys) is None


def test_hooks_that_are_added_can_be_left_out(workplace, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = ("preemption", "numerical_faults", "teacher_check")
    assert answer(workplace, LAD, {f"default_hooks.{name}": None for name in names}, capsys) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [("model = dict(", "cannot be read.*SyntaxError"),
     ("_base_ = 'none.py'", "cannot be read.*none.py"), ("custom_imports = dict(imports=['ladd'])", "ladd"),
     ("model = dict(type=PAA)", "cannot be read.*PAA")],
)  # fmt: skip
def test_config_file_that_cannot_be_read(tmp_path, capsys, text, says):
    (tmp_path / "wrong.py").write_text(text)
    line = answer(tmp_path, tmp_path / "wrong.py", {}, capsys)
    assert re.search(says, line), line


def test_tables_hold_at_least_40_configs():
    assert len(PLAIN_MISTAKES) + len(DISTILLATION_MISTAKES) >= 40


def test_error_of_a_process_that_loads_data_is_told_without_that_processs_traceback():
    def raised(index):
        raise DataError("image 3 (3.jpg) cannot be loaded")

    loader = torch.utils.data.DataLoader(range(1), num_workers=1, collate_fn=raised)
    with pytest.raises(DataError) as caught:
        next(iter(loader))
    assert "Traceback" in str(caught.value)
    assert explain(caught.value) == "image 3 (3.jpg) cannot be loaded"


def test_errors_that_are_no_mistake_of_the_user_keep_their_traceback(monkeypatch, capsys):
    with pytest.raises(RuntimeError, match="defect"), one_line_errors():
        raise RuntimeError("defect")
    monkeypatch.setenv("LAD_TRACEBACK", "1")
    with pytest.raises(DataError), one_line_errors():
        raise DataError("asked for")
    assert capsys.readouterr().err == ""


def test_neck_of_a_detr_that_does_not_take_its_backbones_maps_is_refused():
    config = small_detr("one_stage")
    check_shapes(MODELS.build(copy.deepcopy(config)))
    config.neck.in_channels[1] += 1
    with pytest.raises(
        ConfigError, match=r"model.neck \(ChannelMapper\) cannot take .* it wants 33 channels"
    ):
        check_shapes(MODELS.build(config))


FAMILIES = ["paa/paa_r50_fpn_1x_coco.py", "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", "tood/tood_r50_fpn_1x_coco.py",
            "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", "retinanet/retinanet_r50_fpn_1x_coco.py"]  # fmt: skip


@pytest.mark.parametrize("config", FAMILIES)
def test_detectors_that_fit_together_pass_and_are_as_before(config):
    model = MODELS.build(small_detector(f"mmdet::{config}")).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flags, numbers = [module.training for module in model.modules()], torch.get_rng_state()
    check_shapes(model)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), numbers)
