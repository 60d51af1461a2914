"""What the command-line tools share."""

import argparse
import os
import re
import subprocess
import sys
import warnings

from lad.cli.arguments import add_arguments, learning_rate_mismatch, prepare_training, read_config
from lad.cli.messages import one_line_errors
from lad.detectors import DistillationDetector
from lad.engine.plain_config import plain_configs, student_only
from lad.errors import ConfigError

import pytest
from helpers import ROOT
from mmengine.config import Config

LAD = "configs/lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits.py"


def training(batch_size=2, base=16, enable=False, **optim_wrapper):
    return Config(
        dict(
            train_dataloader=dict(batch_size=batch_size),
            optim_wrapper=dict(type="OptimWrapper", **optim_wrapper),
            auto_scale_lr=dict(enable=enable, base_batch_size=base),
        )
    )


@pytest.mark.parametrize(
    ("cfg", "world_size", "says"),
    [
        (
            training(),
            1,
            "for 16 images a step and this run has 2: --auto-scale-lr multiplies it by 0.125; if",
        ),
        (
            training(),
            4,
            "this run has 8: --auto-scale-lr multiplies it by 0.5; .* set auto_.*base_batch_size=8",
        ),
        (training(batch_size=6), 8, "this run has 48: --auto-scale-lr multiplies it by 3;"),
        (
            training(accumulative_counts=4),
            1,
            r"has 8: multiply it by 0.5 \(--auto-scale-lr does not count accum",
        ),
    ],
)
def test_learning_rate_for_another_number_of_images_is_said_in_one_line(cfg, world_size, says):
    message = learning_rate_mismatch(cfg, world_size)
    assert "\n" not in message
    assert re.search(says, message), message


@pytest.mark.parametrize(
    ("cfg", "world_size"),
    [
        (training(), 8),
        (training(accumulative_counts=8), 1),
        (training(accumulative_counts=2), 4),
        (training(enable=True), 1),
        (training(base=None), 1),
        (training(batch_size=None), 1),
        (Config(dict(training()._cfg_dict, auto_scale_lr=None)), 1),
    ],
)
def test_nothing_is_said_of_a_learning_rate_that_fits_or_is_scaled(cfg, world_size):
    assert learning_rate_mismatch(cfg, world_size) is None


@pytest.mark.parametrize(
    ("options", "seen"), [([], ["other"]), (["default"], ["pkg_res", "DeprecationWarning", "other"])]
)
def test_warnings_of_mmengine_about_itself_are_shown_only_to_those_who_ask(monkeypatch, options, seen):
    monkeypatch.setattr(sys, "warnoptions", options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with one_line_errors():
            warnings.warn("pkg_resources is deprecated as an API.", UserWarning, stacklevel=1)
            warnings.warn("DeprecationWarning: `num_anchors` is deprecated, ...", UserWarning, stacklevel=1)
            warnings.warn("other", UserWarning, stacklevel=1)
    assert [str(warning.message)[: len(start)] for warning, start in zip(caught, seen, strict=True)] == seen


def test_mistake_is_all_that_a_tool_says():
    """In a new process: what is imported early must be as silent as what is built late."""
    command = [sys.executable, "tools/train.py", LAD, "--dry-run"]
    wrong = ["--cfg-options", "model.methods.0.type=FGDLoss"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    done = subprocess.run(
        [*command, *wrong], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: FGDLoss is a loss, not a method: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", ["mmdet.DistillationDetector", DistillationDetector])
def test_student_of_a_detector_named_with_its_scope_or_by_its_class_is_found(kind):
    cfg = Config.fromfile(str(ROOT / LAD))
    cfg.model.type = kind
    cfg.custom_hooks = [dict(type="mmdet.RoleSwitchHook"), dict(type="EMAHook"), object()]
    assert student_only(cfg).model.type == "PAA"
    assert len(plain_configs(cfg)["student"].custom_hooks) == 2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (dict(), "^model: DistillationDetector needs student, or networks[.]$"),
        (dict(networks=["a", "b"]), "^model.networks must be a dict of networks by name"),
        (dict(student=3), "^student must be a config path or a dict, got int[.]$"),
    ],
)
def test_detector_without_what_it_cannot_do_without_is_one_line(model, message):
    cfg = Config(dict(model=dict(type="DistillationDetector", **model), custom_hooks=None))
    with pytest.raises(ConfigError, match=message):
        plain_configs(cfg)


def test_plain_config_without_custom_hooks_is_written():
    cfg = Config.fromfile(str(ROOT / LAD))
    cfg.custom_hooks = None
    assert plain_configs(cfg)["student"].custom_hooks == []


def test_preprocessor_of_a_base_config_does_not_take_the_place_of_the_students(tmp_path):
    """MMEngine hands a top-level `data_preprocessor` to a model that has none; a plain detector keeps its own."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    config = tmp_path / "derived.py"
    config.write_text(f"_base_ = {str(ROOT / LAD)!r}\ndata_preprocessor = dict(mean=[0, 0, 0])\n")
    assert read_config(parser.parse_args([str(config)])).get("data_preprocessor") is None
    plain = tmp_path / "plain.py"
    plain.write_text(
        f"_base_ = {str(ROOT / 'configs/lad/paa_r18_fpn_bccd.py')!r}\ndata_preprocessor = dict(mean=[0, 0, 0])\n"
    )
    assert read_config(parser.parse_args([str(plain)])).data_preprocessor.mean == [0, 0, 0]


@pytest.mark.parametrize(
    ("launcher", "variable", "command"),
    [
        ("pytorch", "RANK", "torchrun"),
        ("slurm", "SLURM_PROCID", "srun"),
        ("mpi", "OMPI_COMM_WORLD_LOCAL_RANK", "mpirun"),
    ],
)
def test_a_launcher_that_launched_nothing_is_named(launcher, variable, command, monkeypatch):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args([str(ROOT / LAD), "--launcher", launcher])
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(
        ConfigError, match=f"--launcher {launcher} .* {variable} is not set: start with {command}, or"
    ):
        read_config(args)
    monkeypatch.setenv(variable, "0")
    assert read_config(args).launcher == launcher


def test_resume_schedule_without_resume_is_refused(tmp_path):
    cfg = Config.fromfile(ROOT / "configs/lad/paa_r18-c16_fpn_digits.py")
    cfg.work_dir = str(tmp_path)
    with pytest.raises(
        ConfigError, match="--resume-schedule says how a resumed run goes on: give --resume too"
    ):
        prepare_training(cfg, amp=False, auto_scale_lr=False, resume=None, resume_schedule="config")
