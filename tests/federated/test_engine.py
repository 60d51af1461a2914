"""Real trainings: Flower's engine with three clients, killed and gone on with; one client against local training."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lad.compat.safe_loading import load_safely
from lad.federated.client import fingerprint, round_seed
from lad.federated.history import read_history

import pytest
from federation import NOT_TRUE, make_data, write_config
from helpers import ROOT

pytest.importorskip("flwr", reason="the extra federated")
pytestmark = pytest.mark.slow

STUDENT = str(ROOT / "configs/feature/retinanet_r18-c16_fpn_digits.py")
#: The student of the test's configs, as a file.
SMALL = """
_base_ = {base!r}
model = dict(
    backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1))
"""
SEED = "randomness = dict(seed=3)\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("federation"))


def command(config, work_dir, *more):
    return [sys.executable, str(ROOT / "tools/federate.py"), config, "--work-dir", str(work_dir), *more]


def run(*arguments):
    return subprocess.run(command(*arguments), check=True, capture_output=True, text=True).stdout


def processes_of(folder):
    """Running processes whose command line or environment names a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.name != str(os.getpid()) and "Z" not in (process / "stat").read_text().split()[2]:
                text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
                if str(folder).encode() in text:
                    found.append(text.replace(b"\0", b" ")[:200].decode(errors="replace"))
        except OSError:
            continue
    return found


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.5)


def test_real_engine_killed_and_gone_on_with_equals_one_process(data, tmp_path):
    config = write_config(data, tmp_path / "config.py", SEED)
    work = tmp_path / "engine"
    log = open(tmp_path / "out.txt", "w")  # noqa: SIM115
    server = subprocess.Popen(command(config, work), stdout=log, stderr=subprocess.STDOUT, text=True)

    def first_round_is_over():
        assert server.poll() is None, (tmp_path / "out.txt").read_text()
        history = read_history(work)
        return history is not None and history.last == 1

    wait_until(first_round_is_over, 600)
    assert len(processes_of(work)) >= 5  # a SuperLink, three SuperNodes, a server
    environment = b"".join(
        (path / "environ").read_bytes()
        for path in Path("/proc").glob("[0-9]*")
        if path.name != "self"
        and (path / "cmdline").is_file()
        and b"flower-superlink" in _read(path / "cmdline")
    )
    assert b"FLWR_TELEMETRY_ENABLED=0" in environment
    assert b"FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1" in environment
    server.send_signal(signal.SIGKILL)
    server.wait()
    wait_until(lambda: not processes_of(work), 60)
    printed = run(config, work)
    assert "round 2/2" in printed
    assert "round 1/2" not in printed
    assert not processes_of(work)
    history = read_history(work)
    assert [sorted(each.clients) for each in history.rounds] == [[], ["a", "b", "c"], ["a", "b", "c"]]
    assert not [each.failures for each in history.rounds if each.failures]
    run(config, tmp_path / "one", "--in-process")
    states = [load_safely(folder / "global.pth")["state_dict"] for folder in (work, tmp_path / "one")]
    # The clients' seeds do not depend on the federation's random name.
    assert fingerprint(states[0]) == fingerprint(states[1])


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_fedntd_of_weight_zero_with_one_client_is_local_training_bit_for_bit(data, tmp_path):
    student = tmp_path / "student.py"
    student.write_text(SMALL.format(base=STUDENT))
    clients = dict(a=dict(ann_file=str(data / "digits/annotations/train.json")))
    more = SEED + "federation['rounds'] = 1\n" + NOT_TRUE.format(student=str(student), weight=0.0)
    config = write_config(data, tmp_path / "ntd.py", more, names="", **clients)
    run(config, tmp_path / "federated", "--in-process")
    [round_dir] = (tmp_path / "federated/clients/a").glob("*/round_0001")
    assert "loss_not_true: 0.0" in (round_dir / "train.log").read_text()
    # The same with neither a federation nor a method.
    plain = write_config(data, tmp_path / "plain.py", SEED, names="", **clients)
    local = [sys.executable, str(ROOT / "tools/train.py"), plain, "--work-dir", str(tmp_path / "local")]
    options = {
        "load_from": str(round_dir / "initial.pth"),
        "randomness.seed": str(round_seed(3, "a", 1)),
        "train_dataloader.dataset.ann_file": str(data / "digits/annotations/train.json"),
    }
    local += ["--cfg-options", *(f"{key}={value}" for key, value in options.items())]
    subprocess.run(local, check=True, capture_output=True)
    own = load_safely(tmp_path / "local/epoch_1.pth")["state_dict"]
    federated = load_safely(tmp_path / "federated/global.pth")["state_dict"]
    assert own.keys() == federated.keys()
    assert fingerprint(dict(own)) == fingerprint(federated)
    begin = load_safely(round_dir / "initial.pth")["state_dict"]
    assert fingerprint(begin) != fingerprint(federated)  # it has learnt something
    assert (
        json.loads((tmp_path / "federated/federation.json").read_text())["rounds"][1]["metrics"] is not None
    )
