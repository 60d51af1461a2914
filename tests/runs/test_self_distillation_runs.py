"""Whole trainings with self-distillation: killed and resumed, and what plain MMDetection makes of their files."""

from lad.compat.safe_loading import load_safely

import pytest
import torch
from fault_runs import STUDENT_CONFIG, Moment, Trainer, differences, final_state, make_data, write_config
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config

# 8 iterations, 2 a step of the optimizer; everything that a step depends on beside the weights: averages, accumulated
# gradients, a schedule of its progress.
MORE = """
custom_imports = dict(imports=['lad'])
model = dict(
    _delete_=True, type='DistillationDetector', student=dict(
        config={student!r}, backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
        bbox_head=dict(in_channels=32, feat_channels=64, stacked_convs=1), test_cfg=dict(score_thr=0.0)),
    exits=dict(student=dict(early=dict(levels=[1]), late=dict(levels=[1, 2]))),
    keep_exits=True,
    methods=[
        dict(type='SelfDistillation', alpha=dict(type='linear', end=0.5),
            temperature=dict(type='cosine', start=4.0, end=1.0), loss=dict(type='KDLoss')),
        dict(type='LabelAssignmentDistillation', learner='student.early', taught_by='student')])
custom_hooks = [dict(type='EMAHook')]
optim_wrapper = dict(accumulative_counts=2)
"""


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("self_distillation")
    make_data(folder)
    write_config(folder / "byot.py", more=MORE.format(student=str(STUDENT_CONFIG)))
    trainer = Trainer(folder)
    assert trainer.run(folder / "byot.py", "undisturbed") == 0, trainer.output
    return trainer


def test_killed_run_resumes_to_the_bits_of_the_undisturbed_one(trainer):
    config = trainer.folder / "byot.py"
    assert trainer.run(config, "killed", moment=Moment(event="iteration 5")) == -9, trainer.output
    assert trainer.run(config, "killed", "--resume") == 0, trainer.output
    folders = [trainer.folder / name for name in ("undisturbed", "killed")]
    states = [final_state(folder) for folder in folders]
    assert states[0]["ema"] is not None
    assert differences(*states) == []
    for name in ("early", "late"):
        files = [load_safely(str(folder / f"student_{name}_epoch_2.pth"))["state_dict"] for folder in folders]
        assert differences(*files) == []


def test_files_of_the_network_and_of_every_exit_are_plain_detectors(trainer):
    """Their weights are those of the checkpoint, averaged ones here; nothing is missing and nothing too many."""
    folder = trainer.folder / "undisturbed"
    whole = load_safely(str(folder / "epoch_2.pth"))["state_dict"]
    image = str(next((trainer.folder / "digits/images/val").glob("*.png")))
    sizes = {}
    for name in ("student", "student_early", "student_late"):
        config, checkpoint = folder / f"{name}.py", folder / f"{name}_epoch_2.pth"
        if name == "student":
            checkpoint = folder / "epoch_2.pth"
        assert "lad" not in Config.fromfile(config).get("custom_imports", dict(imports=[]))["imports"]
        model = init_detector(str(config), str(checkpoint), device="cpu")
        own = load_safely(str(checkpoint))["state_dict"]
        plain = {key: value for key, value in own.items() if not key.startswith("distillation.")}
        assert set(plain) == set(model.state_dict())
        assert differences(plain, model.state_dict()) == []
        exit_name = name.removeprefix("student").removeprefix("_")
        for key, value in plain.items():
            is_exits = exit_name and not key.startswith("backbone.")
            source = f"distillation.exits.student.{exit_name}.{key}" if is_exits else key
            assert torch.equal(value, whole[source]), key
        assert len(inference_detector(model, image).pred_instances) > 0
        sizes[name] = sum(parameter.numel() for parameter in model.parameters())
    assert sizes["student_early"] < sizes["student_late"] < sizes["student"]


def test_log_has_the_own_losses_of_the_exits_and_both_terms(trainer):
    text = (trainer.folder / "undisturbed.0.txt").read_text()
    for name in ("early", "late"):
        for term in ("loss_cls", "student.loss_self_logits", "student.loss_self_features"):
            assert f"{name}.{term}: " in text


def test_layer_wise_decay_with_several_networks_is_one_line(trainer):
    more = f"""
model = dict(_delete_=True, type='DistillationDetector',
    networks=dict(a={str(STUDENT_CONFIG)!r}, b={str(STUDENT_CONFIG)!r}))
optim_wrapper = dict(constructor='LearningRateDecayOptimizerConstructor',
    paramwise_cfg=dict(decay_rate=0.9, decay_type='layer_wise', num_layers=6))
"""
    config = write_config(trainer.folder / "decay.py", more=more)
    assert trainer.run(config, "decay") == 2
    assert (
        "error: optim_wrapper.paramwise_cfg.decay_rate: learning rates that decay layer by layer"
        in trainer.output
    )


def test_hook_without_kept_exits_is_one_line(trainer):
    more = MORE.format(student=str(STUDENT_CONFIG)).replace("keep_exits=True", "keep_exits=False")
    config = write_config(
        trainer.folder / "hook.py", more=f"{more}custom_hooks = [dict(type='SaveExitsHook')]\n"
    )
    assert trainer.run(config, "hook") == 2
    assert (
        "error: SaveExitsHook writes the exits of a DistillationDetector with keep_exits=True: set it in model"
        in trainer.output
    )
