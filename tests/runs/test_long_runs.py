"""Long runs hold no more at their end than after warming up."""

import json
import os
import subprocess
import sys
from pathlib import Path

from lad.base.config import load_config
from lad.datasets import DigitsParameters, make_digits

import numpy as np
import pytest
from helpers import ROOT, build, co_learning, save_checkpoint

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc"
)

STEPS, WARM_UP = 2000, 500
SMALL = dict(
    backbone=dict(base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1),
)
# Tiny networks and images, a process that loads data, and everything that happens at the end of an epoch or at a
# checkpoint, often.
CONFIG = """
_base_ = {base!r}
custom_imports = dict(imports=['lad', 'long_runs'])
model = {model!r}
train_dataloader = dict(
    batch_size=2, num_workers=1, persistent_workers=True,
    dataset=dict(data_root={data!r}, pipeline=[
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(64, 64), keep_ratio=True), dict(type='PackDetInputs')]))
val_dataloader = None
val_cfg = None
val_evaluator = None
train_cfg = dict(max_epochs={epochs})
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=5, max_keep_ckpts=1))
custom_hooks = [dict(type='ResourcesHook'), {hooks}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    make_digits(folder / "digits", DigitsParameters(images=80, val_images=2))
    return folder


def networks(folder):
    teacher = dict(config=str(ROOT / "configs/lad/paa_r18-c32_fpn_digits.py"), **SMALL)
    student = dict(config=str(ROOT / "configs/lad/paa_r18-c16_fpn_digits.py"), **SMALL)
    return student, teacher


def resources(folder, name, base, model, hooks=""):
    """Columns: iteration, resident bytes, open files, threads."""
    config = folder / f"{name}.py"
    config.write_text(
        CONFIG.format(
            base=str(ROOT / "configs" / base),
            model=model,
            data=f"{folder}/digits/",
            epochs=STEPS // 40,
            hooks=hooks,
        )
    )
    settings = dict(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT / "tests"), PYTHONWARNINGS="ignore")
    command = [sys.executable, str(ROOT / "tools/train.py"), str(config), "--work-dir", str(folder / name)]
    done = subprocess.run(
        command, env=dict(os.environ, **settings), cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = Path(folder / name / "resources.jsonl").read_text().splitlines()
    return np.array([json.loads(line) for line in lines])


def check_flat(rows):
    steps, resident, files, threads = rows.T
    assert steps[-1] == STEPS
    warm = steps > WARM_UP
    # A tenth of the run at each end: single values depend on what was freed just before.
    first, last = resident[warm][:10].mean(), resident[warm][-10:].mean()
    print(f"resident: {first / 2**20:.1f} MB after {WARM_UP} steps, {last / 2**20:.1f} MB after {STEPS}")
    print(f"growth: {100 * (last / first - 1):.2f} %; open files {files[warm].min()} to {files[warm].max()}")
    print(f"threads {threads[warm].min()} to {threads[warm].max()}")
    assert last / first < 1.02
    assert files[warm][-10:].max() <= files[warm][:10].max()
    assert threads[warm][-10:].max() <= threads[warm][:10].max()


@pytest.mark.slow
def test_resources_of_lad_are_flat(folder):
    student, teacher = networks(folder)
    model = load_config(str(ROOT / "configs/lad/paa_r18-c32_fpn_digits.py")).model
    for part, values in SMALL.items():
        model[part].update(values)
    teacher["checkpoint"] = save_checkpoint(build(model), folder / "teacher.pth")
    methods = [dict(type="LabelAssignmentDistillation")]
    config = dict(
        _delete_=True, type="DistillationDetector", student=student, teacher=teacher, methods=methods
    )
    check_flat(resources(folder, "lad", "lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits.py", config))


@pytest.mark.slow
def test_resources_of_co_learning_are_flat(folder):
    small, big = networks(folder)
    config = dict(
        _delete_=True,
        **co_learning(dict(small=small, big=big), dict(type="StdMeanSwitch", per="gt_level")),
    )
    hooks = "dict(type='RoleSwitchHook', interval=20), dict(type='SaveNetworksHook')"
    check_flat(resources(folder, "colad", "colad/colad_paa-r18-c16_paa-r18-c32_fpn_digits.py", config, hooks))
