"""Short trainings in processes of their own that can be killed at a chosen moment.

Importing MMDetection takes seconds; a server imports it once and forks a process for each run.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import resource
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from lad.compat.safe_loading import load_safely
from lad.datasets import DigitsParameters, make_digits
from lad.engine.hooks import PreemptionHook

import numpy as np
import torch
from helpers import ROOT
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import ValLoop
from stacks import LAYOUT

STUDENT_CONFIG = ROOT / "configs/lad/paa_r18-c16_fpn_digits.py"
ITERATIONS_PER_EPOCH = 4
EPOCHS = 2

# Random flips (processes of the loader), random noise in the weights (the training process), EMA: everything that
# a resumed run must find again. No seed, as in MMDetection's own configs: a resume must take over the drawn one.
CONFIG = """
_base_ = {base!r}
custom_imports = dict(imports=['lad', 'fault_runs'])
model = dict(
    backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1))
train_dataloader = dict(
    batch_size=2, num_workers={workers}, persistent_workers={workers} > 0,
    dataset=dict(data_root={data!r}, pipeline=[
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(64, 64), keep_ratio=True), dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs')]))
val_dataloader = None
val_cfg = None
val_evaluator = None
train_cfg = dict(max_epochs={epochs})
randomness = dict(_delete_=True, seed={seed})
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=1))
custom_hooks = [dict(type='EMAHook'), dict(type='NoiseHook')]
{more}
"""
ITERATION_BASED = """
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=8, val_interval=8)
train_dataloader.update(sampler=dict(_delete_=True, type='InfiniteSampler'))
default_hooks['checkpoint'].update(by_epoch=False, interval=4)
log_processor = dict(by_epoch=False)
param_scheduler = [dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50)]
"""


@HOOKS.register_module()
class NoiseHook(Hook):
    """Makes the weights depend on the random state of the training process."""

    def after_train_iter(self, runner, batch_idx, **kwargs):
        with torch.no_grad():
            for parameter in runner.model.parameters():
                parameter += 1e-3 * (torch.rand_like(parameter) - random.random())


@HOOKS.register_module()
class LossesHook(Hook):
    """Writes each iteration's losses of each rank."""

    def after_train_iter(self, runner, batch_idx, outputs=None, **kwargs):
        losses = {key: float(value) for key, value in outputs.items() if "loss" in key}
        with open(f"{runner.work_dir}/losses_{runner.rank}.json", "a") as file:
            file.write(json.dumps(losses) + "\n")


@HOOKS.register_module()
class ThreadsHook(Hook):
    """Prints which threads the process has in its first iteration."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            print(f"threads in the run: {thread_names()}", flush=True)


@HOOKS.register_module()
class SaveRanksHook(Hook):
    """Writes what each rank ends with: ``rank_N.pth``, the model's state and the number of objects it saw."""

    def __init__(self):
        self.objects = 0

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.objects += sum(len(sample.gt_instances) for sample in data_batch["data_samples"])

    def after_train(self, runner):
        state = dict(runner.model.module.state_dict(), objects=torch.tensor(self.objects))
        torch.save(state, f"{runner.work_dir}/rank_{runner.rank}.pth")


@HOOKS.register_module()
class DieHook(Hook):
    """Kills one rank in the first attempt of a run under torchrun."""

    def __init__(self, rank, iteration):
        self.rank = rank
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, **kwargs):
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first and runner.rank == self.rank and runner.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class WaitForSignalHook(Hook):
    """Under Slurm, keeps the first iteration of each of the first attempts from ending before a signal comes."""

    def __init__(self, attempts):
        self.attempts = attempts

    def after_train_iter(self, runner, batch_idx, **kwargs):
        attempt = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        listener = next(hook for hook in runner.hooks if isinstance(hook, PreemptionHook))
        if "SLURM_JOB_ID" in os.environ and attempt < self.attempts:
            print(f"waiting in attempt {attempt}", flush=True)
            while listener._received is None:
                time.sleep(0.05)


def write_config(path: Path, workers: int = 0, seed: int | None = 3, more: str = "") -> Path:
    """A config of 2 epochs of 4 iterations beside its data in ``digits/``."""
    path.write_text(
        CONFIG.format(
            base=str(STUDENT_CONFIG),
            workers=workers,
            data=f"{path.parent}/digits/",
            epochs=EPOCHS,
            seed=seed,
            more=more,
        )
    )
    return path


def make_data(folder: Path) -> None:
    make_digits(folder / "digits", DigitsParameters(images=2 * ITERATIONS_PER_EPOCH, val_images=2))


@dataclass
class Moment:
    """When a run gets a signal: at its n-th event, or the first of a name; to itself or to its process group."""

    number: int = 0
    event: str = ""
    signal: int = signal.SIGKILL
    group: bool = False


@dataclass
class Rank:
    """A process's place among several."""

    rank: int = 0
    world_size: int = 1
    port: int = 0


class _Events:
    """Counts the events of a run, and sends itself a signal at one of them."""

    def __init__(self, moment: Moment, log: Path) -> None:
        self.moment = moment
        self.log = log
        self.count = 0

    def happen(self, name: str, before_death: Callable[[], None] | None = None) -> None:
        self.count += 1
        with open(self.log, "a") as file:
            file.write(f"{name}\n")
        if self.count == self.moment.number or (name == self.moment.event and not self.moment.number):
            self.moment.number = self.count
            if before_death is not None:
                before_death()
            (os.killpg if self.moment.group else os.kill)(os.getpid(), self.moment.signal)

    def watch(self, stack: contextlib.ExitStack) -> None:
        """Every step and every system call of a checkpoint's writing is an event."""
        from lad.engine import checkpoints, loops

        sync, replace, seed_step = os.fsync, os.replace, loops.seed_step

        def fsync(descriptor: int) -> None:
            def tear() -> None:
                # What a power cut or a full buffer leaves: a part of the file.
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)

            self.happen("in the middle of a write", tear)
            sync(descriptor)

        def rename(source: str, target: str) -> None:
            self.happen(f"before {Path(target).name}")
            replace(source, target)
            self.happen(f"after {Path(target).name}")

        def step(seed: int, iteration: int) -> None:
            self.happen(f"iteration {iteration}")
            seed_step(seed, iteration)

        stack.enter_context(mock.patch.object(checkpoints.os, "fsync", fsync))
        stack.enter_context(mock.patch.object(checkpoints.os, "replace", rename))
        stack.enter_context(mock.patch.object(loops, "seed_step", step))
        iterate = ValLoop.run_iter

        def validate(*args) -> None:
            self.happen("validation")
            iterate(*args)

        stack.enter_context(mock.patch.object(ValLoop, "run_iter", validate))


def _without_formatting() -> contextlib.AbstractContextManager:
    """MMEngine lays out the config nicely half a dozen times a run, which takes longer than the training."""
    return mock.patch(LAYOUT, lambda text, **_: (text, True))


def _write_to(output: Path) -> None:
    """Let everything that this process and its children print go to a file."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _train(
    arguments: list[str],
    output: Path,
    moment: Moment,
    events: Path,
    entropy: int,
    file_size: int | None,
    rank: Rank,
) -> None:
    """In a process of its own: ``tools/train.py`` with these arguments."""
    os.setsid()
    _write_to(output)
    torch.set_num_threads(1)
    # Where a config names no seed, MMEngine draws one from here.
    np.random.seed(entropy)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if rank.world_size > 1:
        arguments = [*arguments, "--launcher", "pytorch"]
        place = dict(RANK=rank.rank, LOCAL_RANK=rank.rank, WORLD_SIZE=rank.world_size, MASTER_PORT=rank.port)
        os.environ.update({key: str(value) for key, value in place.items()}, MASTER_ADDR="127.0.0.1")
    sys.argv = ["train.py", *arguments]
    with contextlib.ExitStack() as stack:
        _Events(moment, events).watch(stack)
        stack.enter_context(_without_formatting())
        try:
            runpy.run_path(str(ROOT / "tools/train.py"), run_name="__main__")
        finally:
            print(f"threads at the end: {thread_names()}")


def thread_names() -> list[str]:
    """The names of this process's threads, those that Python knows nothing of included; none but on Linux."""
    return sorted(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def import_server() -> multiprocessing.context.BaseContext:
    """Starts processes that find everything imported; one server for all tests of a worker."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fault_runs", "lad.cli.checks", "lad.cli.arguments", "mmdet.apis"])
    return context


def _run_script(command: Sequence[str], output: Path) -> None:
    _write_to(output)
    os.chdir(ROOT)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.argv = list(command)
    # What the script starts in its turn is not to import everything again either.
    with _without_formatting(), mock.patch("subprocess.run", _run_nested):
        runpy.run_path(command[0], run_name="__main__")


_subprocess_run = subprocess.run


def _run_nested(command: Sequence[str], **settings) -> subprocess.CompletedProcess:
    if command[0] != sys.executable:
        return _subprocess_run(command, **settings)
    sys.stdout.flush()
    process = multiprocessing.get_context("fork").Process(
        target=_run_script, args=(list(command[1:]), Path("/proc/self/fd/1"))
    )
    process.start()
    process.join()
    return subprocess.CompletedProcess(command, process.exitcode)


def run_script(*command: object) -> subprocess.CompletedProcess:
    """A Python script with its arguments, in a process that has everything imported.

    Its output is all in ``stdout``.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output.txt"
        process = import_server().Process(target=_run_script, args=([str(part) for part in command], output))
        process.start()
        process.join()
        return subprocess.CompletedProcess(command, process.exitcode, output.read_text(), "")


class Trainer:
    """Starts trainings.

    Args:
        folder: Where configs, data and outputs are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context = import_server()
        self.output = ""
        self.events: list[str] = []

    def start(
        self,
        config: Path,
        name: str,
        *arguments: str,
        moment: Moment | None = None,
        entropy: int = 0,
        file_size: int | None = None,
        rank: Rank | None = None,
    ):
        """A process that trains in the work_dir ``name``; its output goes to ``name.RANK.txt``."""
        rank = rank or Rank()
        output, events = (self.folder / f"{name}.{rank.rank}.{suffix}" for suffix in ("txt", "events"))
        for path in (output, events):
            path.unlink(missing_ok=True)
        command = [str(config), "--work-dir", str(self.folder / name), *arguments]
        process = self.context.Process(
            target=_train, args=(command, output, moment or Moment(), events, entropy, file_size, rank)
        )
        process.start()
        return process

    def run(self, config: Path, name: str, *arguments: str, **settings) -> int:
        """Train to the end, whatever it is; returns the exit code, negative for a signal."""
        return self.join(name, self.start(config, name, *arguments, **settings))

    def run_two(
        self, config: Path, name: str, *arguments: str, moments=(None, None), **settings
    ) -> list[int]:
        """Train in two processes; returns their exit codes."""
        port = free_port()
        processes = [
            self.start(config, name, *arguments, moment=moment, rank=Rank(rank, 2, port), **settings)
            for rank, moment in enumerate(moments)
        ]
        return [self.join(name, process, rank) for rank, process in reversed([*enumerate(processes)])][::-1]

    def join(self, name: str, process, rank: int = 0) -> int:
        process.join(120)
        if process.is_alive():
            process.kill()
        self.output = (self.folder / f"{name}.{rank}.txt").read_text()
        events = self.folder / f"{name}.{rank}.events"
        self.events = events.read_text().splitlines() if events.exists() else []
        return process.exitcode


def final_state(work_dir: Path) -> dict:
    """Everything a finished run leaves in its last checkpoint that must not depend on interruptions."""
    checkpoint = load_safely((work_dir / "last_checkpoint").read_text())
    scalars = checkpoint["message_hub"]["log_scalars"]
    return dict(
        weights=checkpoint["state_dict"],
        ema=checkpoint.get("ema_state_dict"),
        optimizer=checkpoint["optimizer"],
        schedulers=checkpoint["param_schedulers"],
        place=(checkpoint["meta"]["epoch"], checkpoint["meta"]["iter"]),
        losses=scalars["train/loss"].data[0].tolist(),
        rates=scalars["train/lr"].data[0].tolist(),
    )


def differences(first: object, second: object, name: str = "state") -> list[str]:
    """Where two nested states differ, bit for bit."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [name]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [f"{name}: other keys"]
        return [line for key in first for line in differences(first[key], second[key], f"{name}.{key}")]
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return [f"{name}: {len(first)} and {len(second)} items"]
        pairs = enumerate(zip(first, second, strict=True))
        return [line for i, pair in pairs for line in differences(*pair, f"{name}.{i}")]
    return [] if first == second else [f"{name}: {first!r} and {second!r}"]
