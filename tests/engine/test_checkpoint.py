"""Checkpoints: written whole, pointed to afterwards, the old ones removed last."""

import os
import shutil
import signal
from pathlib import Path
from unittest import mock

from lad.engine.checkpoints import (
    AtomicLocalBackend,
    find_resumable,
    read_last_checkpoint,
    write_last_checkpoint,
    write_whole,
)
from lad.engine.hooks import AtomicCheckpointHook, PreemptionHook
from lad.errors import CheckpointError, ConfigError

import pytest
import torch
from helpers import Malicious
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner


class Line(BaseModel):
    """One weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, mode="tensor"):
        if mode == "loss":
            return dict(loss=((self.weight - inputs) ** 2).mean())
        return [self.weight.detach()]


class Score(BaseMetric):
    """Answers the given numbers, one a validation."""

    def __init__(self, scores):
        super().__init__()
        self.scores = list(scores)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(acc=self.scores.pop(0))


def make_runner(work_dir, epochs=4, scores=(0.1,) * 9, resume=False, preemption=None, **options):
    data = dict(
        dataset=[torch.tensor([1.0])] * 2,
        batch_size=1,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=True),
        collate_fn=dict(type="pseudo_collate"),
    )
    return Runner(
        model=Line(),
        work_dir=str(work_dir),
        train_dataloader=data,
        val_dataloader=data,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        val_cfg=dict(),
        val_evaluator=[Score(scores)],
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(
            checkpoint=dict(type=AtomicCheckpointHook, **options),
            **(dict(preemption=preemption) if preemption else {}),
        ),
        randomness=dict(seed=0),
        resume=resume,
        experiment_name=f"{work_dir.name}_{len(list(work_dir.glob('*')))}",
        default_scope="mmengine",
    )


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("*.pth"))


class PulledPlugError(Exception):
    """The machine is gone."""


def test_newest_checkpoints_and_the_best_one_are_kept_as_with_mmengines_hook(tmp_path):
    make_runner(tmp_path, scores=[0.1, 0.5, 0.3, 0.2], interval=1, max_keep_ckpts=2, save_best="acc").train()
    assert checkpoints(tmp_path) == ["best_acc_epoch_2.pth", "epoch_3.pth", "epoch_4.pth"]
    assert read_last_checkpoint(tmp_path) == tmp_path / "epoch_4.pth"


@pytest.mark.parametrize("name", ["epoch_2.pth", "best_acc_epoch_2.pth", "last_checkpoint"])
def test_nothing_old_is_removed_before_the_new_one_is_safe(tmp_path, name):
    replace = os.replace

    def fail(source, target):
        second_epoch = name != "last_checkpoint" or "epoch_2.pth" in checkpoints(tmp_path)
        if Path(target).name == name and second_epoch:
            raise PulledPlugError
        replace(source, target)

    runner = make_runner(tmp_path, scores=[0.1, 0.5], interval=1, max_keep_ckpts=1, save_best="acc")
    with mock.patch("lad.engine.checkpoints.os.replace", fail), pytest.raises(PulledPlugError):
        runner.train()
    left = checkpoints(tmp_path)
    assert "best_acc_epoch_1.pth" in left
    if name != "best_acc_epoch_2.pth":
        assert "epoch_1.pth" in left
        assert read_last_checkpoint(tmp_path) == tmp_path / "epoch_1.pth"
    # A partial file is beside; the run that goes on clears it away, and the outdated checkpoint too.
    assert list(tmp_path.glob(".*.partial"))
    make_runner(
        tmp_path, resume=True, scores=[0.5, 0.3, 0.2, 0.1], interval=1, max_keep_ckpts=1, save_best="acc"
    ).train()
    assert checkpoints(tmp_path)[-1] == "epoch_4.pth"
    assert [name for name in checkpoints(tmp_path) if name.startswith("epoch")] == ["epoch_4.pth"]
    assert not list(tmp_path.glob(".*.partial"))


def test_new_run_in_an_old_folder_forgets_the_old_last_checkpoint_but_keeps_the_files(tmp_path):
    make_runner(tmp_path, epochs=2, interval=1).train()
    runner = make_runner(tmp_path, epochs=1, interval=1)
    runner.train_loop  # noqa: B018 -- builds it: without one this is a test, not a training
    runner.call_hook("before_run")
    assert read_last_checkpoint(tmp_path) is None
    assert checkpoints(tmp_path) == ["epoch_1.pth", "epoch_2.pth"]


def test_run_that_begins_with_a_named_checkpoint_forgets_the_old_last_checkpoint(tmp_path):
    """Else a restart before its first checkpoint would go on with the earlier run."""
    make_runner(tmp_path, epochs=2, interval=1).train()
    runner = make_runner(tmp_path, epochs=2, interval=1, resume=True)
    runner._load_from = str(tmp_path / "epoch_1.pth")
    runner.train_loop  # noqa: B018 -- builds it: without one this is a test, not a training
    runner.call_hook("before_run")
    assert read_last_checkpoint(tmp_path) is None
    assert runner._load_from == str(tmp_path / "epoch_1.pth")


def test_copy_of_a_work_dir_has_its_own_last_checkpoint(tmp_path):
    make_runner(tmp_path / "original", epochs=2, interval=1).train()
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    assert find_resumable(tmp_path / "copy").path == tmp_path / "copy/epoch_2.pth"
    assert find_resumable(tmp_path / "original").path == tmp_path / "original/epoch_2.pth"


def test_checkpoints_in_a_folder_of_their_own_are_found_by_their_path(tmp_path):
    make_runner(tmp_path / "elsewhere", epochs=1, interval=1).train()
    (tmp_path / "run").mkdir()
    write_last_checkpoint(tmp_path / "run", str(tmp_path / "elsewhere/epoch_1.pth"))
    assert find_resumable(tmp_path / "run").path == tmp_path / "elsewhere/epoch_1.pth"


def test_files_that_no_training_can_be_resumed_from_are_passed_over(tmp_path):
    make_runner(tmp_path, epochs=1, interval=1).train()
    torch.save(dict(state_dict={}, meta={}, message_hub={}), tmp_path / "weights_alone.pth")
    torch.save(dict(state_dict=Malicious(tmp_path / "ran")), tmp_path / "malicious.pth")
    (tmp_path / ".epoch_2.pth.partial").write_bytes(b"half")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "last_checkpoint").write_text("")
    found = find_resumable(tmp_path)
    assert found.path == tmp_path / "epoch_1.pth"
    # Whole files that hold no training are no news: single networks' weights lie beside the checkpoints.
    assert {"malicious.pth", "empty.pth"} == {
        next(word for word in reason.split() if word.endswith(".pth")).rsplit("/")[-1]
        for reason in found.refused
    }
    assert not (tmp_path / "ran").exists()


def test_validation_in_the_folder_of_a_run_leaves_its_last_checkpoint_and_signals_alone(tmp_path):
    make_runner(tmp_path, epochs=1, interval=1).train()
    before = signal.getsignal(signal.SIGTERM)
    runner = make_runner(tmp_path, interval=1, preemption=dict(type=PreemptionHook))
    inside = []
    runner.register_hook(Watch(inside))
    runner.val()
    assert inside == [before]
    assert read_last_checkpoint(tmp_path) == tmp_path / "epoch_1.pth"


class Watch(Hook):
    """Notes who listens to SIGTERM while a validation runs."""

    def __init__(self, seen):
        self.seen = seen

    def before_val(self, runner):
        self.seen.append(signal.getsignal(signal.SIGTERM))


def test_last_checkpoint_in_remote_storage_is_taken_as_it_is_named(tmp_path):
    (tmp_path / "last_checkpoint").write_text("s3://bucket/run/epoch_3.pth")
    assert find_resumable(tmp_path).path == "s3://bucket/run/epoch_3.pth"


def test_empty_folder_has_nothing_to_resume_from(tmp_path):
    assert find_resumable(tmp_path).path is None


def test_failed_write_keeps_the_old_content_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"old")
    no_space = OSError(28, "No space left on device")
    message = r"file .*No space left on device; earlier checkpoints"
    with (
        mock.patch("lad.engine.checkpoints.os.fsync", side_effect=no_space),
        pytest.raises(CheckpointError, match=message),
    ):
        AtomicLocalBackend().put(b"new", str(path))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_remote_folders_are_written_to_as_mmengine_does(tmp_path):
    hook = AtomicCheckpointHook(interval=1, out_dir="s3://bucket")
    with mock.patch("mmengine.hooks.CheckpointHook.before_train"):
        hook.before_train(mock.Mock(work_dir=str(tmp_path)))
    assert hook.backend_args is None


def test_unknown_signal_is_refused():
    with pytest.raises(ConfigError, match="no signal 'SIGNONSENSE'"):
        PreemptionHook(signals=["SIGNONSENSE"])


def test_handlers_are_put_back_after_the_training(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    make_runner(tmp_path, epochs=1, preemption=dict(type=PreemptionHook)).train()
    assert signal.getsignal(signal.SIGTERM) == before


def test_signal_waits_for_the_end_of_a_gradient_accumulation(tmp_path):
    runner = make_runner(
        tmp_path, epochs=2, interval=1, preemption=dict(type=PreemptionHook, exit_code=85, interval=1)
    )
    runner.optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.1), accumulative_counts=2)
    hook = next(hook for hook in runner.hooks if isinstance(hook, PreemptionHook))
    # The signal is there before the first of two iterations that belong together.
    hook._received = signal.SIGTERM
    with pytest.raises(SystemExit) as end:
        runner.train()
    assert end.value.code == 85
    assert runner.iter == 1
    assert find_resumable(tmp_path).path == tmp_path / "interrupted.pth"
    for number in hook.signals:
        signal.signal(number, signal.SIG_DFL)
