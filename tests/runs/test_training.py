"""Whole runs through the command line on a small set of real digits."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from lad.base.config import load_config
from lad.compat.safe_loading import load_safely
from lad.datasets import DigitsParameters, make_digits

import pytest
import torch
from fault_runs import Trainer, run_script
from helpers import ROOT, save_checkpoint
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import MODELS
from mmengine.config import Config

LAD_CONFIG = str(ROOT / "configs/lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits.py")
STUDENT_CONFIG = str(ROOT / "configs/lad/paa_r18-c16_fpn_digits.py")
COLAD_CONFIG = str(ROOT / "configs/colad/colad_paa-r18-c16_paa-r18-c32_fpn_digits.py")
TEACHER_CONFIG = str(ROOT / "configs/lad/paa_r18-c32_fpn_digits.py")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with twelve training images and a teacher's checkpoint."""
    folder = tmp_path_factory.mktemp("training")
    make_digits(folder / "digits", DigitsParameters(images=12, val_images=4))
    torch.manual_seed(1)
    teacher = MODELS.build(load_config(TEACHER_CONFIG).model)
    teacher.init_weights()
    save_checkpoint(teacher, folder / "teacher.pth")
    return folder


def options(workplace, **more):
    """Settings for a run of seconds, as --cfg-options."""
    data = f"{workplace}/digits/"
    settings = {
        "train_dataloader.dataset.data_root": data,
        "val_dataloader.dataset.data_root": data,
        "test_dataloader.dataset.data_root": data,
        "val_evaluator.ann_file": f"{data}annotations/val.json",
        "test_evaluator.ann_file": f"{data}annotations/val.json",
        "train_dataloader.batch_size": 4,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "val_dataloader.num_workers": 0,
        "val_dataloader.persistent_workers": False,
        "test_dataloader.num_workers": 0,
        "test_dataloader.persistent_workers": False,
        "default_hooks.logger.interval": 1,
        "train_cfg.max_epochs": 1,
        "train_cfg.val_interval": 1,
        **more,
    }
    return ["--cfg-options", *(f"{key}={value}" for key, value in settings.items())]


def lad_options(workplace, **more):
    return options(workplace, **{"model.teacher.checkpoint": f"{workplace}/teacher.pth", **more})


def start(*command):
    """A script as a user starts it: a Python that has imported nothing."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    command = [sys.executable, *(str(part) for part in command)]
    return check(
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    )


def run(*command):
    """The same script in a process that need not import everything first."""
    return check(run_script(*command))


def check(done):
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def train(config, work_dir, *arguments, script="tools/train.py", run=run):
    return run(ROOT / script, config, "--work-dir", work_dir, *arguments)


def scalars(work_dir):
    """The logged losses of the last run in a work_dir."""
    file = max(Path(work_dir).glob("*/vis_data/scalars.json"), key=lambda path: path.stat().st_mtime)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k.startswith("loss")} for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def trained(workplace):
    """The work_dir of one epoch of LAD."""
    train(LAD_CONFIG, workplace / "lad", *lad_options(workplace), run=start)
    return workplace / "lad"


def test_training_writes_a_plain_checkpoint_that_plain_mmdetection_loads_and_detects_with(trained, workplace):
    checkpoint = str(trained / "epoch_1.pth")
    plain = Config.fromfile(STUDENT_CONFIG)
    plain.model.bbox_head.type = "PAAHead"
    plain.model.test_cfg.score_thr = 0.0
    model = init_detector(plain, checkpoint, device="cpu")
    state = load_safely(checkpoint)["state_dict"]
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    image = next((workplace / "digits/images/val").glob("*.png"))
    assert len(inference_detector(model, str(image)).pred_instances) > 0


def test_work_dir_holds_the_plain_students_config(trained):
    plain = Config.fromfile(trained / "student.py")
    assert plain.model.type == "PAA"
    assert plain.model.backbone.base_channels == 16
    MODELS.build(plain.model)


def test_student_without_lad_detects_and_is_evaluated_as_with_it(trained, workplace):
    config, checkpoint = str(trained / "student.py"), str(trained / "epoch_1.pth")
    image = str(next((workplace / "digits/images/val").glob("*.png")))
    text = Path(config).read_text().replace("score_thr=0.05", "score_thr=0.0")
    (workplace / "student.py").write_text(text)
    # MMEngine 0.10 cannot read its own checkpoints with torch 2.6 and later unless told so.
    settings = dict(PYTHONWARNINGS="ignore", OMP_NUM_THREADS="1", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    script = [sys.executable, ROOT / "tests/without_lad.py"]
    done = check(
        subprocess.run(
            [*script, workplace / "student.py", checkpoint, image, workplace / "without_lad"],
            cwd=workplace, env=dict(os.environ, **settings), capture_output=True, text=True, check=False,
        )
    )  # fmt: skip
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("answer: ")]
    answer = json.loads(line.removeprefix("answer: "))
    own = load_config(STUDENT_CONFIG)
    own.model.test_cfg.score_thr = 0.0
    found = inference_detector(init_detector(own, checkpoint, device="cpu"), image).pred_instances
    assert own.model.bbox_head.type == "BatchedPAAHead"
    torch.testing.assert_close(found.bboxes, torch.tensor(answer["bboxes"]), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.scores, torch.tensor(answer["scores"]), rtol=1e-4, atol=1e-5)
    assert len(found) > 0
    assert 0 <= answer["metrics"]["coco/bbox_mAP"] <= 1


def test_log_says_that_the_learning_rate_is_for_another_number_of_images(trained):
    (log,) = trained.glob("*/*.log")
    assert (
        log.read_text().count("for 8 images a step and this run has 4: --auto-scale-lr multiplies it by 0.5")
        == 1
    )


def test_training_changes_the_weights_and_repeats_bit_for_bit(trained, workplace):
    train(LAD_CONFIG, workplace / "again", *lad_options(workplace))
    states = [load_safely(folder / "epoch_1.pth")["state_dict"] for folder in (trained, workplace / "again")]
    torch.manual_seed(0)
    fresh = MODELS.build(load_config(STUDENT_CONFIG).model).state_dict()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not torch.equal(states[0]["backbone.conv1.weight"], fresh["backbone.conv1.weight"])


def test_mmdetections_own_train_script_gives_the_same_losses(trained, workplace):
    import mmdet

    script = Path(mmdet.__file__).parent / ".mim/tools/train.py"
    train(LAD_CONFIG, workplace / "mmdet", *lad_options(workplace), script=script, run=start)
    assert scalars(workplace / "mmdet") == scalars(trained)
    assert len(scalars(trained)) == 3


def test_test_script_evaluates_a_distillation_config_without_its_teacher(trained, workplace):
    out = workplace / "predictions.pkl"
    arguments = options(workplace, **{"model.teacher.checkpoint": "/nowhere.pth"})
    done = start(
        *(ROOT / "tools/test.py", LAD_CONFIG, trained / "epoch_1.pth", "--work-dir"),
        *(workplace / "test", "--out", out, "--show-dir", "pictures", *arguments),
    )
    assert "coco/bbox_mAP:" in done.stdout + done.stderr
    assert out.is_file()
    assert list((workplace / "test").glob("*/pictures/**/*.png"))


def test_ema_mixed_precision_and_tensorboard_train_and_resume(workplace):
    folder = workplace / "full"
    config = workplace / "full.py"
    config.write_text(
        f"_base_ = {LAD_CONFIG!r}\n"
        "custom_hooks = [dict(type='EMAHook')]\n"
        "visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])\n"
    )
    train(config, folder, "--amp", *lad_options(workplace))
    first = load_safely(folder / "epoch_1.pth")
    assert set(first["ema_state_dict"]) >= {f"module.{key}" for key in first["state_dict"]}
    assert all(value.dtype != torch.bfloat16 for value in first["state_dict"].values())
    assert list(folder.glob("*/vis_data/events.out.tfevents.*"))
    done = train(config, folder, "--amp", "--resume", *lad_options(workplace, **{"train_cfg.max_epochs": 2}))
    assert "resumed epoch: 1, iter: 3" in done.stdout + done.stderr
    second = load_safely(folder / "epoch_2.pth")
    assert second["meta"]["iter"] == 6


@pytest.fixture(scope="module")
def co_trained(workplace):
    """The work_dir of two epochs of CoLAD, the second one resumed."""
    folder = workplace / "colad"
    changes = {
        "custom_hooks.0.interval": 2,
        "default_hooks.checkpoint.max_keep_ckpts": 1,
        "default_hooks.checkpoint.save_best": "auto",
    }
    train(COLAD_CONFIG, folder, *options(workplace, **changes))
    assert (folder / "small_epoch_1.pth").is_file()
    changes["train_cfg.max_epochs"] = 2
    train(COLAD_CONFIG, folder, "--resume", *options(workplace, **changes))
    return folder


@pytest.mark.parametrize("name", ["small", "big"])
def test_co_learning_writes_each_network_as_a_plain_checkpoint(co_trained, workplace, name):
    whole = load_safely(co_trained / "epoch_2.pth")["state_dict"]
    plain = Config.fromfile(co_trained / f"{name}.py")
    plain.model.bbox_head.type = "PAAHead"
    plain.model.test_cfg.score_thr = 0.0
    model = init_detector(plain, str(co_trained / f"{name}_epoch_2.pth"), device="cpu")
    state = load_safely(co_trained / f"{name}_epoch_2.pth")["state_dict"]
    assert list(state) == list(model.state_dict())
    prefix = "" if name == "small" else f"distillation.networks.{name}."
    assert all(torch.equal(value, whole[f"{prefix}{key}"]) for key, value in state.items())
    assert len(model.dataset_meta["classes"]) == 10
    image = next((workplace / "digits/images/val").glob("*.png"))
    assert len(inference_detector(model, str(image)).pred_instances) > 0


def test_networks_checkpoints_come_and_go_with_the_trainings(co_trained):
    files = {path.name for path in co_trained.glob("*.pth")}
    training = {name for name in files if not name.startswith(("small_", "big_"))}
    assert "epoch_2.pth" in training
    assert "epoch_1.pth" not in training
    assert any(name.startswith("best_") for name in training)
    assert files - training == {f"{name}_{file}" for name in ("small", "big") for file in training}


def test_network_is_tested_with_its_own_config_and_the_run_can_still_go_on(co_trained, workplace):
    assert Config.fromfile(co_trained / "small.py").resume is False
    named = (co_trained / "last_checkpoint").read_text()
    done = run(
        *(ROOT / "tools/test.py", co_trained / "small.py", co_trained / "small_epoch_2.pth"),
        *("--work-dir", co_trained),
    )
    assert "coco/bbox_mAP:" in done.stdout + done.stderr
    assert (co_trained / "last_checkpoint").read_text() == named


def test_co_learning_shows_who_taught_when(co_trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert (co_trained / "role_switch.png").stat().st_size > 5_000
    logged = [
        json.loads(line)
        for file in sorted(co_trained.glob("*/vis_data/scalars.json"))
        for line in file.read_text().splitlines()
    ]
    for line in logged:
        if "small.share" in line:
            assert line["small.share"] + line["big.share"] == pytest.approx(1)
            assert line["small.std"] / line["small.mean"] > 0
    files = sorted(co_trained.glob("*/vis_data/events*"), key=lambda path: path.stat().st_mtime)
    runs = [EventAccumulator(str(file)).Reload() for file in files]
    # The second epoch's; testing a network writes events too.
    *_, events = [run for run in runs if "role_switch/small" in run.Tags()["scalars"]]
    shares = [[point.value for point in events.Scalars(f"role_switch/{name}")] for name in ("small", "big")]
    # Three iterations an epoch and a point for two: the second epoch's are iterations 4 and 6.
    assert [point.step for point in events.Scalars("role_switch/small")] == [4, 6]
    assert [sum(pair) for pair in zip(*shares, strict=True)] == pytest.approx([1, 1])


@pytest.mark.parametrize("name", ["lad", "solad", "kd", "colad", "colad-cop"])
def test_two_processes_on_the_cpu_train_to_identical_parameters(workplace, name):
    together = name.startswith("colad")
    base = LAD_CONFIG.replace("/lad_", f"/{name}_")
    if together:
        base = COLAD_CONFIG.replace("/colad_paa", "/colad_paa-cop" if name == "colad-cop" else "/colad_paa")
    settings = options(workplace) if together else lad_options(workplace)
    config = workplace / f"two_{name}.py"
    config.write_text(
        f"_base_ = {base!r}\n"
        "custom_imports = dict(imports=['lad', 'fault_runs'])\n"
        "custom_hooks = [dict(type='SaveRanksHook'), dict(type='SyncBuffersHook')]\n"
    )
    trainer = Trainer(workplace)
    assert trainer.run_two(config, f"two_{name}", *settings) == [0, 0], trainer.output
    folder = workplace / f"two_{name}"
    first, second = (load_safely(folder / f"rank_{rank}.pth") for rank in (0, 1))
    assert first.pop("objects") + second.pop("objects") > 0
    trained = [key for key in first if "running" not in key and "num_batches" not in key]
    assert trained
    assert all(torch.equal(first[key], second[key]) for key in trained)
    assert list(first) == list(load_safely(folder / "epoch_1.pth")["state_dict"])


def test_demo_prints_a_table_of_three_detectors_and_draws_them(tmp_path):
    command = (ROOT / "tools/demo.py", "--work-dir", tmp_path / "demo", "--data", tmp_path / "digits")
    small = ("--images", 16, "--val-images", 4, "--epochs", 1)
    done = run(*command, *small)
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in table] == [
        "detector", "teacher", "student alone", "student with LAD",
    ]  # fmt: skip
    rows = json.loads((tmp_path / "demo/results.json").read_text())
    assert rows[0]["parameters"] > rows[1]["parameters"] == rows[2]["parameters"]
    assert all(0 <= row["mAP"] <= row["AP50"] <= 1 for row in rows)
    assert (tmp_path / "demo/detections.png").stat().st_size > 10_000
    assert re.search(r"student\.onnx: the student with LAD for ONNX Runtime, [\d.]+ MB, \d+ ms", done.stdout)
    again = run(*command, *small)
    assert again.stdout.count("already trained") == 3
