"""The command `lad online-distill`, in processes of its own: its mistakes, its ends, what it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lad.commands.online_distill import online_distill, parse_args, summary
from lad.errors import CheckpointError, ConfigError
from lad.online.state import StreamState, Tally

import mmcv
import pytest
import torch
from helpers import ROOT
from mmdet.apis import init_detector
from online_streams import write_configs, write_video

TOOL = [sys.executable, str(ROOT / "tools/online_distill.py")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("online")
    write_configs(folder)
    write_video(folder / "video.mp4", frames=40)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    """Run the command in this process; signals are left as they are."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments, config="student.py", video="video.mp4"):
        words = ["lad", str(folder / config), "--video", str(folder / video), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        online_distill(parse_args())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def start(folder, name, *arguments):
    command = [*TOOL, str(folder / "student.py"), "--video", str(folder / "video.mp4")]
    return subprocess.Popen(
        [*command, "--work-dir", str(folder / name), "--save-every", "5", "--detections", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def frames_of(folder, name):
    try:
        return (folder / name / "detections.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def wait_for_frames(process, folder, name, count):
    until = time.monotonic() + 120
    while frames_of(folder, name) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.002)


def result(folder, name):
    lines = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
    log = [{key: value for key, value in line.items() if not key.endswith("seconds")} for line in lines]
    weights = torch.load(folder / name / "student.pth", weights_only=True)["state_dict"]
    return weights, (folder / name / "detections.jsonl").read_text(), log


def test_stream_leaves_all_that_it_promises(folder, here, capsys):
    here("--work-dir", folder / "run", "--frames", 10)
    out = capsys.readouterr().out
    assert "10 frames, 5 labelled by the teacher (50.0%)" in out
    assert "throughput:" in out
    assert sorted(path.name for path in (folder / "run").iterdir()) == [
        "annotated.mp4",
        "log.jsonl",
        "state.pth",
        "stream.png",
        "student.pth",
    ]
    assert len(mmcv.VideoReader(str(folder / "run/annotated.mp4"))) == 10
    assert (folder / "run/stream.png").read_bytes().startswith(b"\x89PNG")
    detector = init_detector(
        str(folder / "teacher.py"), str(folder / "run/student.pth"), palette="random", device="cpu"
    )
    assert detector.dataset_meta["classes"] == ("a", "b", "c")

    with pytest.raises(
        ConfigError, match=r"holds a stream \(state.pth\): --resume goes on with it, --force begins"
    ):
        here("--work-dir", folder / "run")
    here("--work-dir", folder / "run", "--resume", "--frames", 12, "--no-video")
    assert StreamState.load(folder / "run/state.pth").frame == 12
    here("--work-dir", folder / "run", "--force", "--frames", 3)
    assert StreamState.load(folder / "run/state.pth").frame == 3


def test_nothing_is_replaced_without_being_told_to(here, tmp_path):
    (tmp_path / "annotated.mp4").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"holds a stream \(annotated.mp4\)"):
        here("--work-dir", tmp_path, "--no-video")
    assert (tmp_path / "annotated.mp4").read_bytes() == b"mine"


def test_frozen_student_stays_as_it_is(folder, here):
    here("--work-dir", folder / "frozen", "--frames", 6, "--frozen", "--no-video")
    before = torch.load(folder / "student.pth", weights_only=True)["state_dict"]
    after = torch.load(folder / "frozen/student.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(before[name], value) for name, value in after.items())
    assert (folder / "frozen/log.jsonl").read_text() == ""


def test_mistakes_are_one_line(folder, here, tmp_path):
    with pytest.raises(ConfigError, match=r"has no online\.teacher: add online=dict"):
        here(config="teacher.py")
    with pytest.raises(ConfigError, match="online has no setting 'strid'"):
        here("--cfg-options", "online.strid=3")
    with pytest.raises(ConfigError, match="there is no video"):
        here("--work-dir", tmp_path, video="vide.mp4")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        here("--student", "nothing.pth", "--work-dir", tmp_path)
    with pytest.raises(CheckpointError, match="teacher: there is no checkpoint"):
        here("--teacher", "nothing.pth", "--work-dir", tmp_path)
    with pytest.raises(ConfigError, match="has 3 classes and 2 names are given"):
        here("--classes", "a", "b", "--work-dir", tmp_path)
    with pytest.raises(ConfigError, match="does not know the student's class 'z'"):
        here("--classes", "a", "b", "z", "--work-dir", tmp_path)
    with pytest.raises(CheckpointError, match="no stream can be resumed"):
        here("--resume", "--work-dir", tmp_path)


def test_heads_without_weights_are_named(folder, here, capsys):
    here(
        "--cfg-options", "online.object_weight=1", "--frames", 1, "--work-dir", folder / "plain", "--no-video"
    )
    assert "objects weigh no more" not in capsys.readouterr().out


def test_summary_of_nothing():
    assert "0 frames, 0 labelled" in summary(Tally(), 0, 0.0)


@pytest.fixture(scope="module")
def whole(folder):
    process = start(folder, "whole")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return result(folder, "whole")


@pytest.mark.slow
def test_killed_stream_goes_on_as_if_nothing_had_happened(folder, whole):
    process = start(folder, "killed")
    wait_for_frames(process, folder, "killed", 17)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < StreamState.load(folder / "killed/state.pth").frame < 40
    assert not (folder / "killed/student.pth").exists()
    process = start(folder, "killed", "--resume")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    weights, detections, log = result(folder, "killed")
    assert all(torch.equal(weights[name], value) for name, value in whole[0].items())
    assert detections == whole[1]
    assert log == whole[2]
    assert len(mmcv.VideoReader(str(folder / "killed/annotated.mp4"))) == 40


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_saves_and_ends_in_peace(folder, whole, number):
    name = f"stopped_{number.name}"
    process = start(folder, name)
    wait_for_frames(process, folder, name, 7)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert 7 <= StreamState.load(folder / name / "state.pth").frame < 40
    assert (folder / name / "student.pth").exists()
    process = start(folder, name, "--resume")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert result(folder, name)[1:] == whole[1:]


def children(process):
    """Processes of a session, without those that have ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, state = stat.read_text().rpartition(")")[::2]
        except OSError:
            continue
        fields = state.split()
        if int(fields[3]) == process and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_behind(folder, number):
    name = f"apart_{number.name}"
    process = start(folder, name, "--process")
    wait_for_frames(process, folder, name, 7)
    assert len(children(process.pid)) > 1
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    until = time.monotonic() + 30
    while children(process.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not children(process.pid)
    if number == signal.SIGTERM:
        assert process.returncode == 0, output
        assert StreamState.load(folder / name / "state.pth").frame >= 7


@pytest.mark.slow
def test_stream_goes_on_without_its_training(folder):
    process = start(folder, "lost", "--process")
    wait_for_frames(process, folder, "lost", 7)
    trainers = [one for one in children(process.pid) if one != process.pid]
    for one in trainers:
        if b"multiprocessing.spawn" in Path(f"/proc/{one}/cmdline").read_bytes():
            os.kill(one, signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "the stream goes on with the last student, which learns no more" in output
    assert "error: the training ended before the stream" in output
    assert frames_of(folder, "lost") == 40
    assert (folder / "lost/student.pth").exists()


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (%d, %d))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_disk_that_takes_no_state_is_one_line(folder):
    """A limit on the size of files, as a disk that is full for anything but lines."""
    size = 100_000
    done = subprocess.run(
        [
            *(sys.executable, "-c", LIMITED % (size, size), TOOL[1], str(folder / "student.py")),
            *("--video", str(folder / "video.mp4"), "--work-dir", str(folder / "full")),
            *("--save-every", "5", "--detections"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert output.count("cannot be saved") == 1, output
    assert "the stream goes on, and tries again every 5 frames" in output
    assert frames_of(folder, "full") == 40
    # The student cannot be written in the end either, which no stream hides.
    assert done.returncode != 0
    assert "student.pth: File too large; make room, then go on with --resume" in output
    assert "Traceback" not in output
