"""Runs that are killed, preempted or out of disk, and go on as if nothing had happened."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_runs import (
    ITERATION_BASED,
    STUDENT_CONFIG,
    Moment,
    Trainer,
    differences,
    final_state,
    free_port,
    make_data,
    write_config,
)
from helpers import ROOT

PREEMPTED = os.EX_TEMPFAIL


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    make_data(folder)
    return Trainer(folder)


@pytest.fixture(scope="module")
def config(trainer):
    return write_config(trainer.folder / "config.py")


@pytest.fixture(scope="module")
def undisturbed(trainer, config):
    """What a run without interruption ends with, and its events in order."""
    assert trainer.run(config, "undisturbed") == 0, trainer.output
    return final_state(trainer.folder / "undisturbed"), trainer.events


def check_killed_runs(trainer, config, undisturbed, moments):
    expected, events = undisturbed
    for number in moments:
        print(f"SIGKILL at event {number} of {len(events)}: {events[number - 1]}")
        name = f"killed_{number}"
        assert trainer.run(config, name, moment=Moment(number)) == -signal.SIGKILL, trainer.output
        assert trainer.run(config, name, "--resume") == 0, trainer.output
        assert differences(expected, final_state(trainer.folder / name)) == []
        files = [path.name for path in (trainer.folder / name).iterdir() if path.is_file()]
        assert sorted(files) == ["config.py", "epoch_2.pth", "last_checkpoint"]


def test_run_killed_at_random_moments_ends_with_the_weights_of_the_undisturbed_run(
    trainer, config, undisturbed
):
    events = undisturbed[1]
    generator = random.Random(0)
    writing = [n for n, event in enumerate(events, 1) if not event.startswith("iteration")]
    training = [n for n, event in enumerate(events, 1) if event.startswith("iteration 5")]
    check_killed_runs(trainer, config, undisturbed, [*generator.sample(writing, 2), *training])


@pytest.mark.slow
def test_run_killed_at_20_random_moments_ends_with_the_weights_of_the_undisturbed_run(
    trainer, config, undisturbed
):
    generator = random.Random(1)
    moments = generator.sample(range(1, len(undisturbed[1]) + 1), 20)
    check_killed_runs(trainer, config, undisturbed, moments)


@pytest.mark.parametrize(
    ("workers", "more", "iterations"),
    [(0, "", 2), (2, "", 3), (2, "", 4), (2, ITERATION_BASED, 6)],
    ids=["in_process", "two_workers", "end_of_epoch", "iteration_based"],
)
def test_stopped_run_goes_on_in_the_middle_of_the_epoch_with_the_same_data_and_random_numbers(
    trainer, workers, more, iterations
):
    name = f"stopped_{workers}_{iterations}"
    # No seed in the config: the run that goes on would draw another one.
    config = write_config(trainer.folder / f"{name}.py", workers, seed=None, more=more)
    assert trainer.run(config, f"{name}_undisturbed") == 0, trainer.output
    # Every process of the run gets the signal, as from Slurm.
    moment = Moment(event=f"iteration {iterations - 1}", signal=signal.SIGTERM, group=True)
    code = trainer.run(config, name, moment=moment)
    assert code == PREEMPTED, trainer.output
    assert f"Stopped after iteration {iterations} on SIGTERM" in trainer.output
    assert sum(event.startswith("iteration") for event in trainer.events) == iterations
    folder = trainer.folder / name
    assert (folder / "last_checkpoint").read_text() == f"{folder}/interrupted.pth"
    assert trainer.run(config, name, "--resume", entropy=1) == 0, trainer.output
    assert sum(event.startswith("iteration") for event in trainer.events) == 8 - iterations
    expected = final_state(trainer.folder / f"{name}_undisturbed")
    assert differences(expected, final_state(folder)) == []
    assert not (folder / "interrupted.pth").exists()


TOGETHER = """
_small = model
model = dict(
    _delete_=True, type='DistillationDetector', deploy='b',
    networks=dict(
        a=dict(config={student!r}, **_small),
        b=dict(config={student!r}, **_small, data_preprocessor=dict(mean=[0.0] * 3, std=[255.0] * 3))),
    exits=dict(a=dict(early=dict(levels=[1])), b=dict(early=dict(levels=[1]))),
    methods=[dict(type='MutualLogitDistillation', pairs='all',
        weight=dict(type='exponential', end=1.0, epochs=2))])
optim_wrapper = dict(accumulative_counts=2)
"""
FUSED = """
_small = model
model = dict(
    _delete_=True, type='DistillationDetector', deploy='b',
    networks=dict(
        a=dict(config={student!r}, **_small),
        b=dict(config={student!r}, **_small, data_preprocessor=dict(mean=[0.0] * 3, std=[255.0] * 3)),
        c=dict(config={student!r}, **_small)),
    methods=[dict(type='FeatureFusionSelfDistillation', leader='b')])
optim_wrapper = dict(accumulative_counts=2)
"""
FUSION = "distillation.FeatureFusionSelfDistillation"


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (TOGETHER, {"distillation.networks.a", "distillation.exits.a", "distillation.exits.b"}),
        (
            FUSED,
            {"distillation.networks.a", "distillation.networks.c"}
            | {f"{FUSION}.{part}" for part in ("fusion", "reverse", "upsampling")},
        ),
    ],
    ids=["mutual_with_exits", "fusion"],
)
def test_killed_run_of_networks_that_learn_together_goes_on_equal(trainer, more, parts, request):
    """With a scheduled weight, accumulated gradients and averaged weights."""
    name = request.node.callspec.id
    config = write_config(trainer.folder / f"{name}.py", more=more.format(student=str(STUDENT_CONFIG)))
    assert trainer.run(config, name) == 0, trainer.output
    expected = final_state(trainer.folder / name)
    moment = Moment(event="iteration 5")
    assert trainer.run(config, f"{name}_apart", moment=moment) == -signal.SIGKILL, trainer.output
    assert trainer.run(config, f"{name}_apart", "--resume") == 0, trainer.output
    assert differences(expected, final_state(trainer.folder / f"{name}_apart")) == []
    weights = expected["weights"]
    kinds = {".".join(key.split(".")[:3]) for key in weights if key.startswith("distillation.")}
    assert kinds == parts


def test_other_seed_ends_with_other_weights(trainer, undisturbed):
    config = write_config(trainer.folder / "other.py", seed=4)
    assert trainer.run(config, "other") == 0, trainer.output
    assert differences(undisturbed[0]["weights"], final_state(trainer.folder / "other")["weights"])


def test_number_of_workers_does_not_change_the_result(trainer, undisturbed):
    config = write_config(trainer.folder / "workers.py", workers=2)
    assert trainer.run(config, "workers") == 0, trainer.output
    assert differences(undisturbed[0], final_state(trainer.folder / "workers")) == []


@pytest.mark.parametrize("damage", ["truncated", "one_bit", "missing"])
def test_damaged_last_checkpoint_falls_back_to_the_newest_good_one_with_a_warning(
    trainer, undisturbed, damage
):
    config = write_config(
        trainer.folder / f"{damage}.py", more="default_hooks['checkpoint'].update(max_keep_ckpts=2)"
    )
    assert trainer.run(config, damage) == 0, trainer.output
    folder = trainer.folder / damage
    last = folder / "epoch_2.pth"
    content = bytearray(last.read_bytes())
    if damage == "one_bit":
        # In the middle of a weight: torch alone would read it.
        content[len(content) // 2] ^= 1
    elif damage == "truncated":
        del content[len(content) // 2 :]
    last.write_bytes(content)
    if damage == "missing":
        last.unlink()
    assert trainer.run(config, damage, "--resume") == 0, trainer.output
    warning = next(line for line in trainer.output.splitlines() if "Going on from" in line)
    assert "WARNING" in warning
    assert f"{last}" in warning
    assert f"Going on from {folder}/epoch_1.pth" in warning
    assert differences(undisturbed[0], final_state(folder)) == []


def test_nothing_good_to_resume_from_is_one_line(trainer, config):
    folder = trainer.folder / "hopeless"
    folder.mkdir()
    (folder / "epoch_1.pth").write_bytes(b"PK\x03\x04 not a checkpoint")
    (folder / "last_checkpoint").write_text(f"{folder}/epoch_1.pth")
    assert trainer.run(config, "hopeless", "--resume") == 2
    error = [line for line in trainer.output.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert "epoch_1.pth" in error[0]
    assert "Traceback" not in trainer.output


def test_resume_without_a_checkpoint_begins_anew(trainer, config, undisturbed):
    assert trainer.run(config, "first_start", "--resume") == 0, trainer.output
    assert differences(undisturbed[0], final_state(trainer.folder / "first_start")) == []


def test_full_disk_is_one_line_and_leaves_the_earlier_checkpoints(trainer, config, undisturbed):
    short = ("--cfg-options", "train_cfg.max_epochs=1")
    assert trainer.run(config, "full", *short) == 0, trainer.output
    folder = trainer.folder / "full"
    before = (folder / "epoch_1.pth").read_bytes()
    assert trainer.run(config, "full", "--resume", file_size=len(before) // 2) == 2
    assert "Traceback" not in trainer.output
    error = [line for line in trainer.output.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert f"cannot write {folder}/epoch_2.pth" in error[0]
    assert "File too large" in error[0]
    assert (folder / "epoch_1.pth").read_bytes() == before
    assert sorted(path.name for path in folder.glob("*.pth")) == ["epoch_1.pth"]
    assert not list(folder.glob(".*"))
    # Room was made.
    assert trainer.run(config, "full", "--resume") == 0, trainer.output
    assert differences(undisturbed[0]["weights"], final_state(folder)["weights"]) == []


VALIDATION = """
val_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='DigitsDataset', data_root={data!r}, ann_file='annotations/val.json',
        data_prefix=dict(img='images/val/'), test_mode=True, pipeline=[
        dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]))
val_evaluator = dict(type='CocoMetric', ann_file={data!r} + 'annotations/val.json', metric='bbox')
val_cfg = dict(type='ValLoop')
train_cfg.update(val_interval=1)
default_hooks['checkpoint'].update(interval=5)
"""


@pytest.mark.parametrize("epoch", [1, 2])
def test_signal_in_the_validation_loses_neither_the_epoch_nor_the_validation(trainer, epoch):
    # The hook writes a checkpoint at the end alone: the state before the first validation is saved because of it.
    config = write_config(
        trainer.folder / f"val_{epoch}.py", more=VALIDATION.format(data=f"{trainer.folder}/digits/")
    )
    assert trainer.run(config, f"val_{epoch}") == 0, trainer.output
    expected = final_state(trainer.folder / f"val_{epoch}")
    validations = [number for number, event in enumerate(trainer.events, 1) if event == "validation"]
    assert len(validations) == 2
    moment = Moment(validations[epoch - 1], signal=signal.SIGUSR1)
    assert trainer.run(config, f"cut_{epoch}", moment=moment) == PREEMPTED
    assert "Stopped in the validation on SIGUSR1" in trainer.output
    assert trainer.run(config, f"cut_{epoch}", "--resume") == 0, trainer.output
    assert trainer.events[0] == "validation"
    assert trainer.events.count("validation") == 3 - epoch
    assert sum(event.startswith("iteration") for event in trainer.events) == 8 - 4 * epoch
    assert differences(expected, final_state(trainer.folder / f"cut_{epoch}")) == []


def test_all_ranks_stop_after_the_same_iteration_when_one_gets_the_signal(trainer):
    config = write_config(trainer.folder / "ranks.py", more="custom_hooks += [dict(type='SyncBuffersHook')]")
    assert trainer.run_two(config, "two_undisturbed") == [0, 0], trainer.output
    moments = (None, Moment(event="iteration 0", signal=signal.SIGTERM))
    assert trainer.run_two(config, "two", moments=moments) == [PREEMPTED] * 2, trainer.output
    assert trainer.run_two(config, "two", "--resume") == [0, 0], trainer.output
    expected = final_state(trainer.folder / "two_undisturbed")
    assert expected["place"] == (2, 4)
    assert differences(expected, final_state(trainer.folder / "two")) == []


ACCUMULATION = (
    "optim_wrapper = dict(accumulative_counts=3)\ndefault_hooks['checkpoint'].update(max_keep_ckpts=2)\n"
)


@pytest.fixture(scope="module")
def accumulating(trainer):
    """A config with steps of 3 iterations and epochs of 4, and what its undisturbed run ends with."""
    config = write_config(trainer.folder / "accumulates.py", more=ACCUMULATION)
    assert trainer.run(config, "accumulates") == 0, trainer.output
    return config, final_state(trainer.folder / "accumulates")


@pytest.mark.parametrize(
    ("event", "number"), [("iteration 1", signal.SIGTERM), ("after epoch_1.pth", signal.SIGKILL)]
)
def test_run_that_accumulates_gradients_goes_on_with_the_same_bits(trainer, accumulating, event, number):
    """SIGTERM is obeyed after a step of the optimizer, and epoch_1.pth is written within one."""
    config, expected = accumulating
    name = f"accumulates_{number.name}"
    killed = number == signal.SIGKILL
    code = trainer.run(config, name, moment=Moment(event=event, signal=number))
    assert code == (-number if killed else PREEMPTED), trainer.output
    assert trainer.run(config, name, "--resume") == 0, trainer.output
    assert ("accumulated before the checkpoint are restored" in trainer.output) == killed
    assert differences(expected, final_state(trainer.folder / name)) == []


def test_ranks_that_accumulate_gradients_go_on_with_the_same_bits(trainer):
    """Steps of 3 iterations, epochs of 2: epoch_1.pth holds what both ranks have accumulated."""
    more = f"{ACCUMULATION}custom_hooks += [dict(type='SyncBuffersHook')]\n"
    config = write_config(trainer.folder / "ranks_accumulate.py", more=more)
    assert trainer.run_two(config, "two_accumulate") == [0, 0], trainer.output
    whole, part = trainer.folder / "two_accumulate", trainer.folder / "two_go_on"
    part.mkdir()
    shutil.copy(whole / "epoch_1.pth", part)
    assert trainer.run_two(config, "two_go_on", "--resume") == [0, 0], trainer.output
    assert "accumulated before the checkpoint are restored" in trainer.output
    assert differences(final_state(whole), final_state(part)) == []


@pytest.mark.parametrize(
    ("event", "code"), [("none", 0), ("iteration 0", PREEMPTED), ("validation", PREEMPTED)]
)
def test_no_thread_of_the_process_group_outlives_a_run_and_aborts_its_process(trainer, event, code):
    # A rank validates one image: group norm needs a coarsest level of more than one place.
    validation = VALIDATION.format(data=f"{trainer.folder}/digits/").replace("(64, 64)", "(256, 256)")
    more = validation + "custom_hooks += [dict(type='ThreadsHook')]"
    config = write_config(trainer.folder / "threads.py", more=more)
    moments = [Moment(event=event, signal=signal.SIGTERM) for _ in range(2)]
    assert trainer.run_two(config, "threads", moments=moments) == [code] * 2, trainer.output
    for rank in range(2):
        output = (trainer.folder / f"threads.{rank}.txt").read_text()
        during, after = output.split("threads in the run: ")[1].split("threads at the end: ")
        if "gloo" not in during.splitlines()[0]:
            pytest.skip("here threads of Gloo have no names")
        assert "gloo" not in after


@pytest.fixture(scope="module")
def mortal(trainer):
    """A config whose rank 1 is killed in the second epoch of the first attempt."""
    return write_config(
        trainer.folder / "mortal.py", more="custom_hooks += [dict(type='DieHook', rank=1, iteration=3)]"
    )


def torchrun(config, work_dir, restarts):
    command = [ROOT / "tools/dist_train.sh", config, "2", "--work-dir", work_dir]
    paths = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = dict(
        PATH=paths, PYTHONPATH=str(ROOT / "tests"), MAX_RESTARTS=str(restarts), PORT=str(free_port())
    )
    return subprocess.run(
        [str(part) for part in command],
        env=dict(os.environ, **settings, OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore"),
        capture_output=True,
        text=True,
        check=False,
    )


def test_job_whose_rank_is_killed_ends_within_a_minute_and_names_the_rank(trainer, mortal):
    begin = time.monotonic()
    done = torchrun(mortal, trainer.folder / "ended", restarts=0)
    # Half of it is the start.
    assert time.monotonic() - begin < 60
    assert done.returncode != 0
    first_failure = done.stderr.split("Root Cause")[1]
    assert "rank      : 1" in first_failure
    assert "Signal 9 (SIGKILL)" in first_failure


def test_job_whose_rank_is_killed_goes_on_from_its_last_checkpoint_with_max_restarts(trainer, config, mortal):
    # What an earlier run left in the folder is not this run's to go on from.
    folder = trainer.folder / "restarted"
    folder.mkdir()
    (folder / "last_checkpoint").write_text(f"{trainer.folder}/elsewhere.pth")
    done = torchrun(mortal, folder, restarts=1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resumed epoch: 1, iter: 2" in done.stdout + done.stderr
    assert trainer.run_two(config, "not_killed") == [0, 0], trainer.output
    assert differences(final_state(trainer.folder / "not_killed"), final_state(folder)) == []
