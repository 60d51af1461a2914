"""Resuming: the same run or one line; whose schedule it goes on with; accumulated gradients."""

import copy
from types import SimpleNamespace

from lad.engine.hooks.resume import SCHEDULE, _check_same_kind
from lad.engine.saved_config import UNKNOWN, read_saved_config
from lad.errors import CheckpointError, ConfigError

import pytest
import torch
from mmengine.config import Config
from resumable_runs import Run, config
from stacks import LAYOUT


@pytest.fixture(autouse=True)
def no_layout(monkeypatch):
    """MMEngine lays out the config half a dozen times a run, which takes longer than the training."""
    monkeypatch.setattr(LAYOUT, lambda text, **_: (text, True))


def check_equal(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


ACCUMULATIONS = {
    "end_of_epoch": (dict(optim_wrapper__accumulative_counts=2), "epoch_1.pth"),
    "two_epochs_of_three_in_steps_of_four": (dict(optim_wrapper__accumulative_counts=4), "epoch_2.pth"),
    "by_iteration": (
        dict(
            optim_wrapper__accumulative_counts=3,
            default_hooks__checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=5),
        ),
        "iter_5.pth",
    ),
    "iteration_based": (
        dict(
            optim_wrapper=dict(accumulative_counts=4, optimizer=dict(_delete_=True, type="AdamW", lr=0.01)),
            train_cfg=dict(_delete_=True, type="IterBasedTrainLoop", max_iters=11),
            train_dataloader__sampler=dict(type="InfiniteSampler"),
            default_hooks__checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=7),
            param_scheduler=[dict(type="MultiStepLR", milestones=[8], by_epoch=False)],
        ),
        "iter_7.pth",
    ),
    "last_steps_of_the_run": (
        dict(optim_wrapper__accumulative_counts=5, optim_wrapper__clip_grad=dict(max_norm=0.1)),
        "epoch_3.pth",
    ),
    "bfloat16": (
        dict(optim_wrapper__accumulative_counts=2, optim_wrapper__type="BFloat16OptimWrapper"),
        "epoch_1.pth",
    ),
}


@pytest.mark.parametrize("kind", ACCUMULATIONS)
def test_checkpoint_in_the_middle_of_an_accumulation_resumes_to_the_same_bits(tmp_path, kind):
    changed, name = ACCUMULATIONS[kind]
    whole = Run(config(**changed), tmp_path / "whole").train()
    part = Run(config(**changed), tmp_path / "part", tmp_path / "whole" / name).train()
    check_equal(whole.weights, part.weights)
    saved = torch.load(tmp_path / "whole" / name, weights_only=False)
    assert saved["accumulated_gradients"]["gradients"], "the test needs gradients that are pending"
    assert part.warnings() == []


def test_checkpoint_between_two_accumulations_holds_no_gradients(tmp_path):
    Run(config(optim_wrapper__accumulative_counts=3), tmp_path).train()
    assert "accumulated_gradients" not in torch.load(tmp_path / "epoch_1.pth", weights_only=False)


def test_gradients_of_another_accumulation_are_left_out_with_a_warning(tmp_path):
    Run(config(optim_wrapper__accumulative_counts=2), tmp_path).train()
    other = Run(
        config(optim_wrapper__accumulative_counts=4), tmp_path / "b", tmp_path / "epoch_1.pth"
    ).train()
    assert len(other.warnings("accumulated for a step of 2 iterations", "config's have 4")) == 1


UNCHANGED = {
    "as_it_was": {},
    "adamw_by_parameter": dict(
        optim_wrapper=dict(
            optimizer=dict(_delete_=True, type="AdamW", lr=0.01, betas=(0.8, 0.99), weight_decay=0.05),
            paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys=dict(backbone=dict(lr_mult=0.1))),
        )
    ),
    "warm_up_and_cosine": dict(
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=4),
            dict(type="CosineAnnealingLR", by_epoch=True, begin=1, T_max=3, convert_to_iter_based=True),
        ]
    ),
    "scaled": dict(auto_scale_lr=dict(enable=True, base_batch_size=16)),
}


@pytest.mark.parametrize("kind", UNCHANGED)
@pytest.mark.parametrize("schedule", ["checkpoint", "config"])
def test_unchanged_config_resumes_to_the_same_bits_without_a_warning(tmp_path, kind, schedule):
    cfg = config(**UNCHANGED[kind])
    whole = Run(cfg, tmp_path / "whole").train()
    part = Run(cfg, tmp_path / "part", tmp_path / "whole/epoch_2.pth", schedule).train()
    check_equal(whole.weights, part.weights)
    assert part.warnings() == []
    assert all(part.settings[step] == whole.settings[step] for step in part.settings)


ADAMW = dict(_delete_=True, type="AdamW", lr=0.01, betas=[0.9, 0.999], weight_decay=0.05)
# What the run began with, what the config says when it goes on, and what the warning names.
CHANGED = [
    ({}, dict(optim_wrapper__optimizer__lr=0.3), "optim_wrapper.optimizer.lr is 0.1 (config: 0.3)"),
    ({}, dict(optim_wrapper__optimizer__weight_decay=0.1), "optimizer.weight_decay is None (config: 0.1)"),
    ({}, dict(optim_wrapper__optimizer__momentum=0.5), "optimizer.momentum is 0.9 (config: 0.5)"),
    (
        dict(optim_wrapper__optimizer=ADAMW),
        dict(optim_wrapper__optimizer=dict(ADAMW, betas=[0.5, 0.9])),
        "optimizer.betas is [0.9, 0.999] (config: [0.5, 0.9])",
    ),
    ({}, dict(param_scheduler__0__milestones=[3]), "param_scheduler.0.milestones is [2] (config: [3])"),
    (
        {},
        dict(param_scheduler=[]),
        "param_scheduler is [MultiStepLR(milestones=[2], gamma=0.1, end=4)] (config: [])",
    ),
    (
        {},
        dict(param_scheduler=[dict(type="CosineAnnealingLR", T_max=4)]),
        "param_scheduler.0 is MultiStepLR(milestones=[2], gamma=0.1, end=4) (config: CosineAnnealingLR(T_max=4, ",
    ),
    (
        {},
        dict(
            param_scheduler=[
                dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=4),
                dict(type="MultiStepLR", milestones=[3], gamma=0.1),
            ]
        ),
        "LinearLR",
    ),
    (
        dict(param_scheduler=[dict(type="PolyLR", eta_min=0.001)]),
        dict(train_cfg__max_epochs=6),
        "param_scheduler.0.end is 4 (config: 6)",
    ),
    (
        dict(optim_wrapper__paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=0.1)))),
        dict(optim_wrapper__paramwise_cfg__custom_keys__head__lr_mult=0.5),
        "optim_wrapper.paramwise_cfg.custom_keys.head.lr_mult is 0.1 (config: 0.5)",
    ),
]


@pytest.mark.parametrize(("before", "after", "says"), CHANGED, ids=[row[2][:40] for row in CHANGED])
def test_changed_setting_has_no_effect_and_is_named(tmp_path, before, after, says):
    length = {key: value for key, value in after.items() if key.startswith("train_cfg")}
    whole = Run(config(**before), tmp_path / "whole").train()
    changed = config(**{**before, **after})
    part = Run(changed, tmp_path / "part", tmp_path / "whole/epoch_1.pth").train()
    assert len(part.warnings(says, "--resume-schedule config")) == 1, part.lines
    assert all(part.settings[step] == whole.settings[step] for step in part.settings if step < 12)
    if not length:
        check_equal(whole.weights, part.weights)
    # The checkpoint of the part was written with the changed config, and still with the old settings.
    again = Run(changed, tmp_path / "again", tmp_path / "part/epoch_2.pth")
    again.train()
    assert len(again.warnings(says)) == 1
    assert all(again.settings[step] == whole.settings[step] for step in again.settings if step < 12)


@pytest.mark.parametrize(("before", "after", "says"), CHANGED, ids=[row[2][:40] for row in CHANGED])
def test_with_the_configs_schedule_each_step_has_the_settings_of_a_whole_run_of_the_new_config(
    tmp_path, before, after, says
):
    changed = config(**{**before, **after})
    Run(config(**before), tmp_path / "old").train()
    new = Run(changed, tmp_path / "new").train()
    part = Run(changed, tmp_path / "part", tmp_path / "old/epoch_1.pth", "config").train()
    assert min(part.settings) == 3
    assert all(part.settings[step] == new.settings[step] for step in part.settings)
    assert part.warnings("Optimizer and schedule") == []
    # From then on it is the run's own.
    again = Run(changed, tmp_path / "again", tmp_path / "part/epoch_2.pth").train()
    assert again.warnings() == []
    assert all(again.settings[step] == new.settings[step] for step in again.settings)


def test_configs_schedule_in_the_middle_of_an_epoch_and_by_iteration(tmp_path):
    every = dict(default_hooks__checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=5))
    warm_up = [
        dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=7),
        dict(type="MultiStepLR", milestones=[2, 3], gamma=0.5),
        dict(
            type="CosineAnnealingParamScheduler", param_name="momentum", by_epoch=False, T_max=12, eta_min=0.1
        ),
    ]
    Run(config(**every), tmp_path / "old").train()
    changed = config(**every, param_scheduler=warm_up)
    new = Run(changed, tmp_path / "new").train()
    part = Run(changed, tmp_path / "part", tmp_path / "old/iter_5.pth", "config").train()
    assert min(part.settings) == 5
    assert all(part.settings[step] == new.settings[step] for step in part.settings)


def test_momentum_stays_that_of_the_checkpoint_with_the_configs_schedule(tmp_path):
    """One step of SGD with another learning rate: weight -= lr (momentum * buffer + gradient)."""
    Run(config(), tmp_path / "old").train()
    saved = torch.load(tmp_path / "old/epoch_3.pth", weights_only=False)
    cfg = config(optim_wrapper__optimizer__lr=0.05, param_scheduler=[])
    part = Run(cfg, tmp_path / "part", tmp_path / "old/epoch_3.pth", "config")
    buffers = []

    def record(optimizer, *_):
        buffers.append(
            {key: value["momentum_buffer"].clone() for key, value in optimizer.state_dict()["state"].items()}
        )

    step = torch.optim.SGD.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", lambda self, *args: (record(self), step(self, *args))[1])
        part.train()
    before = saved["optimizer"]["state"]
    assert all(torch.equal(buffers[0][key], before[key]["momentum_buffer"]) for key in before)


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (dict(train_dataloader__batch_size=6), "train_dataloader.batch_size 4 -> 6"),
        (dict(train_cfg__max_epochs=5), "train_cfg.max_epochs 4 -> 5"),
        (dict(optim_wrapper__accumulative_counts=2), "optim_wrapper.accumulative_counts 1 -> 2"),
        (dict(optim_wrapper__clip_grad=dict(max_norm=1.0)), "optim_wrapper.clip_grad None -> (max_norm=1.0)"),
        (
            dict(optim_wrapper__type="BFloat16OptimWrapper"),
            "optim_wrapper.type 'OptimWrapper' -> 'BFloat16Opt",
        ),
        (dict(model__note="another"), "model.note None -> 'another'"),
        (
            dict(model=dict(_delete_=True, type="SameTwoLayers")),
            "model TwoLayers() -> SameTwoLayers()",
        ),
        (
            dict(train_dataloader__dataset__length=24, train_dataloader__batch_size=8),
            "train_dataloader.dataset.length 12 -> 24",
        ),
    ],
)
def test_changed_setting_that_takes_effect_is_named_too(tmp_path, after, says):
    Run(config(), tmp_path / "old").train()
    part = Run(config(**after), tmp_path / "part", tmp_path / "old/epoch_1.pth").train()
    assert len(part.warnings("in effect from here on", says)) == 1, part.lines


def test_losses_that_a_changed_model_does_not_have_are_logged_no_more(tmp_path):
    """They would be logged with their last value for ever."""
    Run(config(model__second_loss=True), tmp_path / "old").train()
    part = Run(config(), tmp_path / "part", tmp_path / "old/epoch_1.pth").train()
    logged = part.runner.message_hub.log_scalars
    assert "train/loss" in logged
    assert "train/loss_second" not in logged
    whole = Run(config(model__second_loss=True), tmp_path / "whole", tmp_path / "old/epoch_1.pth").train()
    # An unchanged run keeps its history: the losses of 4 epochs of 3 iterations.
    assert len(whole.runner.message_hub.log_scalars["train/loss_second"].data[0]) == 12


@pytest.mark.parametrize("kinds", [("DistillationDetector", "PAA"), ("PAA", "DistillationDetector")])
def test_distillation_is_not_gone_on_with_as_a_plain_detector_nor_the_reverse(kinds):
    """Weights of a distillation whose methods have none fit the plain detector."""
    saved, own = (dict(model=dict(type=kind)) for kind in kinds)
    with pytest.raises(CheckpointError, match="leave out --resume and set load_from") as caught:
        _check_same_kind(saved, SimpleNamespace(cfg=own), "checkpoint a.pth")
    assert f"is of a training of a {kinds[0]} and the config's is one of a {kinds[1]}" in str(caught.value)
    for same in (own, {}, dict(model=None), dict(model=UNKNOWN), dict(model=dict(type=UNKNOWN))):
        _check_same_kind(same, SimpleNamespace(cfg=own), "checkpoint a.pth")


def test_checkpoint_of_plain_mmengine_is_compared_by_its_config(tmp_path):
    Run(config(), tmp_path / "old").train()
    saved = torch.load(tmp_path / "old/epoch_1.pth", weights_only=False)
    assert saved.pop(SCHEDULE)
    torch.save(saved, tmp_path / "plain.pth")
    part = Run(config(optim_wrapper__optimizer__lr=0.3), tmp_path / "part", tmp_path / "plain.pth").train()
    assert len(part.warnings("optim_wrapper.optimizer.lr is 0.1 (config: 0.3)")) == 1


GROUPS = dict(paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=0.1))))
OTHER_RUNS = [
    (dict(model__width=5), "another architecture or number of classes: backbone.weight"),
    (dict(model__extra=True), "2 keys are missing (adapter.weight, adapter.bias)"),
    (
        dict(optim_wrapper__optimizer=dict(_delete_=True, type="Adam", lr=0.1)),
        "trained with SGD and the config has Adam",
    ),
    (
        dict(optim_wrapper__optimizer=dict(_delete_=True, type="RMSprop", lr=0.1)),
        "SGD and the config has RMSprop",
    ),
    (dict(optim_wrapper=GROUPS), "6 parameters in 1 groups and the config's has 6 in 6"),
]


@pytest.mark.parametrize(("after", "says"), OTHER_RUNS, ids=[row[1][:40] for row in OTHER_RUNS])
@pytest.mark.parametrize("schedule", ["checkpoint", "config"])
def test_checkpoint_of_another_run_is_refused_and_nothing_is_loaded(tmp_path, after, says, schedule):
    Run(config(), tmp_path / "old").train()
    other = Run(config(**after), tmp_path / "other", tmp_path / "old/epoch_1.pth", schedule)
    with pytest.raises(CheckpointError) as caught:
        other.train()
    message = str(caught.value)
    assert says in message
    assert "leave out --resume and set load_from" in message
    assert "\n" not in message
    check_equal(other.before, other.weights)
    assert other.runner.optim_wrapper.optimizer.state_dict()["state"] == {}


def test_another_optimizer_is_refused_though_the_checkpoint_names_none(tmp_path):
    Run(config(), tmp_path / "old").train()
    saved = torch.load(tmp_path / "old/epoch_1.pth", weights_only=False)
    del saved[SCHEDULE], saved["meta"]["cfg"]
    torch.save(saved, tmp_path / "plain.pth")
    cfg = config(optim_wrapper__optimizer=dict(_delete_=True, type="AdamW", lr=0.1))
    with pytest.raises(CheckpointError, match="another optimizer than AdamW"):
        Run(cfg, tmp_path / "other", tmp_path / "plain.pth").train()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer", None),
        ("meta", 3),
        ("message_hub", []),
        ("state_dict", "x"),
        ("meta", dict(epoch="one", iter=3)),
    ],
)
def test_file_that_holds_no_training_is_one_line(tmp_path, key, value):
    Run(config(), tmp_path / "old").train()
    saved = torch.load(tmp_path / "old/epoch_1.pth", weights_only=False)
    saved[key] = value
    torch.save(saved, tmp_path / "damaged.pth")
    with pytest.raises(CheckpointError, match=f"{key}.*no training can be resumed from it"):
        Run(config(), tmp_path / "other", tmp_path / "damaged.pth").train()


def test_runner_that_was_built_without_a_config_resumes(tmp_path):
    """Of its optimizer and schedulers only the states are known."""
    run = Run(config(), tmp_path / "old")
    run.runner.cfg = Config()
    run.train()
    saved = torch.load(tmp_path / "old/epoch_2.pth", weights_only=False)
    assert SCHEDULE not in saved
    part = Run(
        config(optim_wrapper__optimizer__lr=0.3), tmp_path / "part", tmp_path / "old/epoch_2.pth"
    ).train()
    assert part.warnings() == []
    check_equal(run.weights, part.weights)
    fewer = Run(config(param_scheduler=[]), tmp_path / "fewer", tmp_path / "old/epoch_2.pth")
    with pytest.raises(
        CheckpointError, match="has 1 param_schedulers and the config has 0: restore param_scheduler, or"
    ):
        fewer.train()


def test_momentum_schedule_of_adam_is_no_other_optimizer(tmp_path):
    cfg = config(optim_wrapper__optimizer=ADAMW)
    Run(
        config(optim_wrapper__optimizer=ADAMW, param_scheduler=[dict(type="ConstantMomentum")]),
        tmp_path / "old",
    ).train()
    part = Run(cfg, tmp_path / "part", tmp_path / "old/epoch_1.pth").train()
    assert len(part.warnings("param_scheduler.0 is ConstantMomentum")) == 1


def test_run_without_its_ema_goes_on_from_the_average_with_a_warning(tmp_path):
    averaged = config(custom_hooks=[dict(type="TraceHook"), dict(type="EMAHook")])
    Run(averaged, tmp_path / "old").train()
    part = Run(config(), tmp_path / "part", tmp_path / "old/epoch_1.pth").train()
    assert len(part.warnings("has averaged weights (EMAHook) and the config has no EMAHook")) == 1
    whole = torch.load(tmp_path / "old/epoch_4.pth", weights_only=False)
    same = Run(averaged, tmp_path / "same", tmp_path / "old/epoch_1.pth").train()
    assert same.warnings() == []
    saved = torch.load(tmp_path / "same/epoch_4.pth", weights_only=False)
    for key in ("state_dict", "ema_state_dict"):
        check_equal(whole[key], saved[key])


def test_one_cycle_that_ends_before_the_checkpoint_is_one_line(tmp_path):
    Run(config(), tmp_path / "old").train()
    cycle = [dict(type="OneCycleLR", eta_max=0.1, total_steps=4, by_epoch=False)]
    with pytest.raises(ConfigError, match="a param_scheduler of the config ends before the checkpoint"):
        Run(config(param_scheduler=cycle), tmp_path / "b", tmp_path / "old/epoch_3.pth", "config").train()


def test_unknown_source_of_the_schedule_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="schedule must be 'checkpoint' or 'config', got 'new'"):
        Run(config(), tmp_path, schedule="new")


def test_saved_config_is_read_without_running_it(tmp_path, monkeypatch):
    monkeypatch.undo()  # as MMEngine lays it out
    cfg = Config(dict(a=dict(type="X", values=(1, -2.5, None)), b=[dict(c="d")], e={"1x": True}))
    values = read_saved_config(cfg.pretty_text)
    assert values == dict(a=dict(type="X", values=[1, -2.5, None]), b=[dict(c="d")], e={"1x": True})
    written = tmp_path / "written"
    text = f"import os\na = open({str(written)!r}, 'w')\nb = [1, os.getpid()]\nc = dict(d=os)\n"
    assert read_saved_config(text) == dict(a=UNKNOWN, b=[1, UNKNOWN], c=dict(d=UNKNOWN))
    assert not written.exists()
    assert read_saved_config("no python (") == {}


def test_comparison_leaves_the_configs_as_they_were(tmp_path):
    Run(config(), tmp_path / "old").train()
    cfg = config(optim_wrapper__optimizer__lr=0.3)
    before = copy.deepcopy(cfg._cfg_dict.to_dict())
    Run(cfg, tmp_path / "part", tmp_path / "old/epoch_1.pth").train()
    assert cfg._cfg_dict.to_dict() == before
