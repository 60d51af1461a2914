"""Teacher and training in a process of their own."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from lad.errors import LadError
from lad.online.building import Networks, build_student, build_trainer
from lad.online.process import LearningApart, LearningHere, TrainingLostError
from lad.online.settings import OnlineSettings

import numpy as np
import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from online_streams import write_configs

FRAMES = np.random.default_rng(0).integers(0, 255, (3, 48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    cfg = Config.fromfile(str(write_configs(folder)))
    online = dict(cfg.pop("online"))
    return Networks(cfg, cfg.load_from, online.pop("teacher"), None, "cpu"), OnlineSettings.from_config(
        online
    )


def wait(learning):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        outcome = learning.poll()
        if outcome is not None:
            return outcome
        time.sleep(0.01)
    raise AssertionError("no outcome in a minute")


def alive(process):
    """Whether a process is there, and not only waited for by nobody."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_process_learns_what_is_learnt_here(networks):
    """Weights, states and outcomes are equal to the bit, and a state of the one is a state of the other."""
    where, settings = networks
    students = [build_student(where)[0] for _ in range(2)]
    here, apart = (
        LearningHere(build_trainer(where, settings), students[0]),
        LearningApart(where, settings, students[1]),
    )
    try:
        pid = apart._process.pid
        for number, image in enumerate(FRAMES):
            for learning, student in zip((here, apart), students, strict=True):
                learning.submit(number, image, student.detect(student.prepare(image)))
            assert not apart.is_idle
            outcomes = [wait(learning) for learning in (here, apart)]
            assert apart.is_idle
            first, second = (
                replace(outcome, teacher_seconds=0.0, training_seconds=0.0) for outcome in outcomes
            )
            assert first == second
            weights = [student.model.state_dict() for student in students]
            assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
        state = apart.state_dict()
        assert state["session"]["steps"] == here.state_dict()["session"]["steps"] > 0
        here.load_state_dict(state)
        apart.load_state_dict(here.state_dict())
        with pytest.raises(LadError, match="does not fit"):
            apart.load_state_dict(dict(state_dict={}))
        os.kill(pid, signal.SIGTERM)  # a service sends it to all processes
        assert apart.state_dict()["session"]["steps"] == state["session"]["steps"]
    finally:
        apart.close()
    assert not alive(pid)


@pytest.mark.slow
def test_lost_process_is_told(networks):
    where, settings = networks
    student, _ = build_student(where)
    learning = LearningApart(where, settings, student)
    try:
        learning.submit(0, FRAMES[0], student.detect(student.prepare(FRAMES[0])))
        os.kill(learning._process.pid, signal.SIGKILL)
        with pytest.raises(TrainingLostError, match=r"has ended \(exit code -9\)"):
            wait(learning)
        with pytest.raises(TrainingLostError):
            learning.state_dict()
    finally:
        learning.close()


@pytest.mark.slow
def test_mistake_in_the_process_is_the_mistake_of_the_program(networks, tmp_path):
    where, settings = networks
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    teacher = dict(where.teacher, checkpoint=str(tmp_path / "bad.pth"))
    wrong = Networks(where.cfg, where.checkpoint, teacher, None, "cpu")
    student, _ = build_student(where)
    with pytest.raises(LadError, match=r"bad\.pth"):
        LearningApart(wrong, settings, student)


PARENT = """
import sys, time
sys.path[:0] = [{tests!r}]
if __name__ == "__main__":
    import lad
    from lad.online.building import Networks, build_student
    from lad.online.process import LearningApart
    from lad.online.settings import OnlineSettings
    from mmengine.config import Config
    cfg = Config.fromfile({config!r})
    online = dict(cfg.pop("online"))
    networks = Networks(cfg, cfg.load_from, online.pop("teacher"), None, "cpu")
    student, _ = build_student(networks)
    learning = LearningApart(networks, OnlineSettings.from_config(online), student)
    print(learning._process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_process_dies_with_the_one_that_serves(tmp_path):
    config = write_configs(tmp_path)
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(tests=str(ROOT / "tests"), config=str(config)))
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    try:
        last = read_number(parent)
        assert alive(last)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        until = time.monotonic() + 20
        while alive(last) and time.monotonic() < until:
            time.sleep(0.05)
        assert not alive(last)
    finally:
        parent.kill()
        parent.wait()


def read_number(parent):
    for line in parent.stdout:
        if line.strip().isdigit():
            return int(line)
    raise AssertionError("the process did not start")
