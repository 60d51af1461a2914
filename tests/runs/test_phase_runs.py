"""Trainings with a pretraining: stopped in the middle of it, and in two processes."""

import json
import os
import signal

from lad.base.config import load_config
from lad.compat.safe_loading import load_safely

import pytest
import torch
from fault_runs import STUDENT_CONFIG, Moment, Trainer, differences, final_state, make_data, write_config
from helpers import save_checkpoint
from mmdet.registry import MODELS

# Of 8 iterations; AdamW's weight decay moves whatever has a gradient, be it of zeros.
MORE = """
custom_imports = dict(imports=['lad', 'fault_runs', 'phase_methods'])
model = dict(
    _delete_=True, type='DistillationDetector', student=dict(
        config={student!r}, backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
        bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1)),
    teacher=dict(config={student!r}, checkpoint={teacher!r}),
    methods=[dict(type='BoundaryProbe', pretrain={pretrain}), dict(type='FactorProbe', pretrain={pretrain})])
optim_wrapper = dict(optimizer=dict(weight_decay=0.5))
default_hooks['teacher_check'] = None
"""


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phases")
    make_data(folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        teacher = MODELS.build(load_config(str(STUDENT_CONFIG)).model)
        teacher.init_weights()
    save_checkpoint(teacher, folder / "teacher.pth")
    return Trainer(folder)


def configure(trainer, name, pretrain, more=""):
    text = MORE.format(
        student=str(STUDENT_CONFIG), teacher=f"{trainer.folder}/teacher.pth", pretrain=pretrain
    )
    return write_config(trainer.folder / f"{name}.py", more=text + more)


def logged_losses(work_dir):
    """The losses of each iteration's line of a log."""
    [file] = work_dir.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [{name: value for name, value in line.items() if "loss" in name} for line in lines]


def test_run_stopped_in_its_pretraining_ends_with_the_weights_of_the_undisturbed_run(trainer):
    config = configure(trainer, "stopped", "dict(iters=3)")
    assert trainer.run(config, "undisturbed") == 0, trainer.output
    assert "Iteration 1: pretraining of BoundaryProbe, FactorProbe, 3 iterations in all." in trainer.output
    assert "Iteration 4: the task; BoundaryProbe, FactorProbe pretrained before." in trainer.output
    before, after = (
        {"loss", "loss_boundary", "loss_paraphrase"},
        {"loss", "loss_cls", "loss_bbox", "loss_iou"},
    )
    logged = logged_losses(trainer.folder / "undisturbed")
    assert [set(line) for line in logged] == [before] * 3 + [after | {"loss_factor"}] * 5
    # Averages over the iterations before; the pretraining's are not among them.
    assert all(sum(line.values()) == pytest.approx(2 * line["loss"], rel=1e-4) for line in logged)
    moment = Moment(event="iteration 1", signal=signal.SIGTERM, group=True)
    assert trainer.run(config, "stopped", moment=moment) == os.EX_TEMPFAIL, trainer.output
    assert trainer.run(config, "stopped", "--resume") == 0, trainer.output
    assert "Iteration 3: pretraining of" in trainer.output
    assert "Iteration 4: the task" in trainer.output
    assert differences(*(final_state(trainer.folder / name) for name in ("undisturbed", "stopped"))) == []


@pytest.mark.slow
def test_two_processes_move_what_learns_and_nothing_else(trainer):
    """DDP fills in gradients of zeros for what rests; weight decay must not see them."""
    more = "custom_hooks = [dict(type='LossesHook')]\ndefault_hooks['checkpoint'].update(max_keep_ckpts=2)\n"
    config = configure(trainer, "two", "dict(epochs=1)", more)
    assert trainer.run(config, "one") == 0, trainer.output
    assert trainer.run_two(config, "two") == [0, 0], trainer.output
    one, first, second = (
        load_safely(str(trainer.folder / name))["state_dict"]
        for name in ("one/epoch_1.pth", "two/epoch_1.pth", "two/epoch_2.pth")
    )
    pretrained = ("backbone.", "distillation.BoundaryProbe.", "distillation.FactorProbe.paraphraser.")
    resting = [name for name in first if not name.startswith(pretrained)]
    # Never moved, they are what the same seed gave the other run.
    assert all(torch.equal(first[name], one[name]) for name in resting)
    assert not torch.equal(first["backbone.conv1.weight"], one["backbone.conv1.weight"])
    assert all(torch.equal(second[name], first[name]) for name in first if name.startswith(pretrained[1:]))
    moved = {
        name for name in resting if name.endswith("weight") and not torch.equal(second[name], first[name])
    }
    assert moved == {name for name in resting if name.endswith("weight")}


def test_pretraining_that_ends_between_two_steps_of_the_optimizer_is_one_line(trainer):
    config = configure(trainer, "between", "dict(iters=3)", more="optim_wrapper['accumulative_counts'] = 2\n")
    assert trainer.run(config, "between") == 2
    assert (
        "error: pretraining ends after 3 iterations, in the middle of 2 whose gradients are accumulated "
        "(accumulative_counts): make it a multiple of 2 iterations." in trainer.output
    )


def test_pretraining_as_long_as_the_run_is_one_line(trainer):
    config = configure(trainer, "long", "dict(epochs=2)")
    assert trainer.run(config, "long") == 2
    error = [line for line in trainer.output.splitlines() if line.startswith("error: ")]
    assert error == [
        "error: pretraining takes 2 epochs and the whole run is no longer: make pretrain shorter, or train_cfg longer."
    ]
