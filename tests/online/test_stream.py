"""A stream from its beginning to its end: what is served, written, saved, and survived."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest import mock

from lad.engine import checkpoints
from lad.errors import CheckpointError, ConfigError
from lad.online.building import Networks, build_student, build_trainer
from lad.online.controller import StrideRules
from lad.online.files import remove_stream
from lad.online.frames import Frames, open_frames
from lad.online.outputs import Lines
from lad.online.process import LearningHere, TrainingLostError
from lad.online.settings import OnlineSettings
from lad.online.state import StreamState, served_weights
from lad.online.stream import OnlineStream, StreamOptions

import mmcv
import numpy as np
import pytest
import torch
from mmdet.apis import init_detector
from mmengine.config import Config
from online_streams import CLASSES, Scripted, found, scripted_trainer, write_configs, write_video

RULES = StrideRules(min_stride=2, max_stride=8, max_updates=2)
LABELS = found([4, 4, 30, 30])
NOTHING = found()


class Noise(Frames):
    """Frames of noise at one a second."""

    name = "noise"
    fps = 1.0

    def __init__(self, length, sizes=((48, 64),)):
        self.length, self._sizes = length, sizes

    def read_from(self, frame):
        for number in range(frame, self.length):
            random = np.random.default_rng(number)
            yield random.integers(0, 255, (*self._sizes[number % len(self._sizes)], 3), dtype=np.uint8)

    def ending(self, read):
        return None


class Run:
    """A stream with prepared answers of its teacher and of its student."""

    def __init__(self, folder, frames=20, teacher=(LABELS,), student=(LABELS,), sizes=((48, 64),), **options):
        self.told = []
        self.teacher = Scripted(*teacher)
        settings = OnlineSettings(RULES)
        self.trainer, self.session = scripted_trainer(self.teacher, *student, settings=settings)
        self.stream = OnlineStream(
            Noise(frames, sizes),
            self.trainer.student,
            LearningHere(self.trainer, self.trainer.student),
            RULES,
            0.5,
            StreamOptions(Path(folder), **dict(dict(video=False), **options)),
            self.told.append,
        )
        self.folder = Path(folder)

    def run(self, **arguments):
        self.trainer.student.model.dataset_meta = dict(classes=CLASSES)
        self.stream.run(**arguments)
        return self

    @property
    def log(self):
        return [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]


def test_teacher_is_asked_less_and_less_by_a_student_that_knows(tmp_path):
    run = Run(tmp_path, frames=40).run()
    assert [line["frame"] for line in run.log] == [0, 4, 12, 20, 28, 36]
    assert [line["stride"] for line in run.log] == [4, 8, 8, 8, 8, 8]
    assert run.stream.tally.labelled == run.teacher.calls == 6
    assert run.stream.tally.mean_f1 == 1.0


def test_what_is_served_is_from_before_the_updates(tmp_path):
    """The first frame is served with nothing; what the updates made of it counts for the next."""
    run = Run(tmp_path, frames=2, student=(NOTHING, LABELS), detections=True).run()
    served = [json.loads(line) for line in (tmp_path / "detections.jsonl").read_text().splitlines()]
    assert [line["bboxes"] for line in served] == [[], [[4.0, 4.0, 30.0, 30.0]]]
    assert served[1] == dict(frame=1, bboxes=[[4.0, 4.0, 30.0, 30.0]], labels=[0], scores=[1.0])
    assert (run.log[0]["f1_before"], run.log[0]["f1"], run.log[0]["updates"]) == (0.0, 1.0, 1)


def test_frames_may_change_size(tmp_path):
    run = Run(tmp_path, frames=12, student=(NOTHING,), sizes=((48, 64), (30, 80)), video=True).run()
    assert run.stream.tally.updates > 0
    assert run.told == []
    video = mmcv.VideoReader(str(tmp_path / "annotated.mp4"))
    assert (len(video), video.width, video.height) == (12, 64, 48)
    assert not (tmp_path / "annotated").exists()


def test_stream_ends_where_it_is_told_to(tmp_path):
    assert Run(tmp_path / "a", max_frames=7).run().stream.tally.frames == 7
    asked = iter([False, False, True])
    assert Run(tmp_path / "b").run(stopped=lambda: next(asked)).stream.tally.frames == 3
    assert StreamState.load(tmp_path / "b/state.pth").frame == 3


def test_silent_teacher_is_survived_and_said_once(tmp_path):
    run = Run(tmp_path, frames=200, teacher=(NOTHING,), student=(NOTHING,)).run()
    (told,) = run.told
    assert "the teacher has found nothing since frame 0 (6" in told
    assert run.stream.tally.frames == 200
    assert run.session.steps == 0
    assert [line for line in run.log if "message" in line] == [dict(frame=mock.ANY, message=told)]


def test_second_silence_is_said_too(tmp_path):
    teacher = (*[NOTHING] * 12, LABELS, NOTHING)
    run = Run(tmp_path, frames=300, teacher=teacher, student=(NOTHING,)).run()
    assert len(run.told) == 2


def test_left_out_steps_are_told(tmp_path):
    run = Run(tmp_path, frames=3, student=(NOTHING,))
    run.trainer.student.model.bbox_head.loss_cls.loss_weight = float("nan")
    run.run()
    assert run.told[0].startswith("frame 0: a training step was left out: loss_cls")
    assert run.stream.tally.faults == 2
    assert all(
        value.isfinite().all() for value in torch.load(tmp_path / "student.pth")["state_dict"].values()
    )


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_is_one_line_and_the_stream_goes_on(tmp_path):
    run = Run(tmp_path, frames=20, student=(NOTHING,), save_every=3)
    begun = iter(range(100))

    def fsync(descriptor):
        if 2 <= next(begun) < 5:  # a state is two: the file and its folder
            full_disk()

    with mock.patch.object(checkpoints.os, "fsync", fsync):
        run.run()
    (told,) = run.told
    assert told.startswith(
        "the state of frame 6 cannot be saved (No space left on device): the stream goes on"
    )
    assert StreamState.load(tmp_path / "state.pth").frame == 20
    assert not list(tmp_path.glob(".*"))


def test_lines_that_a_full_disk_refuses_are_written_later(tmp_path):
    lines = Lines(tmp_path / "log.jsonl")
    lines.write(dict(a=1))
    real = lines._file
    lines._file = mock.Mock(write=full_disk)
    lines.write(dict(a=2))
    assert not lines.is_whole
    lines._file = mock.Mock(write=lambda data: real.write(data[:3]))  # a part fits
    lines.write(dict(a=3))
    lines._file = real
    length = lines.length
    lines.close()
    text = (tmp_path / "log.jsonl").read_text()
    assert [json.loads(line)["a"] for line in text.splitlines()] == [1, 2, 3]
    assert length == len(text)


def test_lines_of_an_earlier_part_are_cut_back_and_never_made_up(tmp_path):
    (tmp_path / "log.jsonl").write_text("1\n2\n3\n")
    lines = Lines(tmp_path / "log.jsonl", 4)
    lines.write(dict(a=4))
    lines.close()
    assert (tmp_path / "log.jsonl").read_text() == '1\n2\n{"a": 4}\n'
    lines = Lines(tmp_path / "log.jsonl", 100)
    assert lines.length == 13
    lines.close()
    assert (tmp_path / "log.jsonl").read_text() == '1\n2\n{"a": 4}\n'


def test_state_is_not_saved_without_the_log_that_belongs_to_it(tmp_path):
    run = Run(tmp_path, frames=4, save_every=2)
    run.stream._log._file = mock.Mock(write=full_disk, close=lambda: None)
    run.run()
    assert "the log cannot be written" in run.told[0]
    assert not (tmp_path / "state.pth").exists()
    assert (tmp_path / "student.pth").exists()


def test_lost_training_leaves_the_last_student_and_the_last_state(tmp_path):
    run = Run(tmp_path, frames=20, student=(NOTHING,), save_every=5)
    real = run.stream._learning

    def poll():
        if run.stream.tally.frames > 7:
            raise TrainingLostError("the process of teacher and training has ended")
        return real.poll()

    run.stream._learning = mock.Mock(
        is_idle=True, submit=real.submit, poll=poll, state_dict=real.state_dict, close=mock.Mock()
    )
    run.run()
    (told,) = run.told
    assert told.endswith("the stream goes on with the last student, which learns no more.")
    assert run.stream.lost_training
    assert run.stream.tally.frames == 20
    assert StreamState.load(tmp_path / "state.pth").frame == 5


# -- With real networks ------------------------------------------------------------------------------------------------


class Stack:
    """Streams of real, small networks over a video file."""

    def __init__(self, folder):
        self.folder = folder
        self.cfg = Config.fromfile(str(write_configs(folder)))
        self.video = write_video(folder / "video.mp4", frames=24)
        online = dict(self.cfg.online)
        self.networks = Networks(self.cfg, self.cfg.load_from, online.pop("teacher"), None, "cpu")
        self.settings = OnlineSettings.from_config(online)

    def stream(self, name, resume=False, video=None, learns=True, **options):
        student, _ = build_student(self.networks)
        learning = LearningHere(build_trainer(self.networks, self.settings), student) if learns else None
        settings = dict(dict(save_every=5, detections=True), **options)
        return OnlineStream(
            open_frames(video or self.video),
            student,
            learning,
            self.settings.rules,
            self.settings.student_score,
            StreamOptions(self.folder / name, **settings),
            print,
            resume,
        )

    def result(self, name):
        """Weights, detections and log of a stream, without times."""
        log = [json.loads(line) for line in (self.folder / name / "log.jsonl").read_text().splitlines()]
        for line in log:
            for key in [key for key in line if key.endswith("seconds")]:
                del line[key]
        weights = torch.load(self.folder / name / "student.pth", weights_only=True)["state_dict"]
        return weights, (self.folder / name / "detections.jsonl").read_text(), log


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("streams"))
    stack.stream("whole").run()
    return stack


class KilledError(BaseException):
    """Stands for SIGKILL: nothing is saved."""


@pytest.mark.parametrize("at", [3, 7, 15, 23])
def test_interrupted_stream_goes_on_as_if_nothing_had_happened(stack, at):
    name = f"killed_{at}"
    stream = stack.stream(name)
    count = iter(range(100))

    def progress():
        if next(count) == at:
            raise KilledError

    with pytest.raises(KilledError):
        stream.run(progress=progress)
    resume = (stack.folder / name / "state.pth").exists()
    assert resume == (at >= 5)
    stack.stream(name, resume=resume).run()
    weights, detections, log = stack.result(name)
    whole = stack.result("whole")
    assert all(torch.equal(weights[key], value) for key, value in whole[0].items())
    assert detections == whole[1]
    assert log == whole[2]
    assert len(mmcv.VideoReader(str(stack.folder / name / "annotated.mp4"))) == 24


def test_student_of_the_stream_has_learnt_and_is_a_plain_checkpoint(stack):
    weights, _, log = stack.result("whole")
    assert sum(line["updates"] for line in log) > 10
    before = torch.load(stack.cfg.load_from, weights_only=True)["state_dict"]
    assert not torch.equal(before["bbox_head.retina_cls.weight"], weights["bbox_head.retina_cls.weight"])
    assert torch.equal(before["backbone.bn1.running_mean"], weights["backbone.bn1.running_mean"])
    detector = init_detector(
        str(stack.folder / "teacher.py"),
        str(stack.folder / "whole/student.pth"),
        palette="random",
        device="cpu",
    )
    assert detector.dataset_meta["classes"] == CLASSES
    assert torch.equal(detector.state_dict()["backbone.bn1.weight"], weights["backbone.bn1.weight"])


def test_resuming_what_has_ended_changes_nothing(stack):
    stack.stream("ended", max_frames=9).run()
    first = stack.result("ended")
    stack.stream("ended", resume=True, max_frames=9).run()
    second = stack.result("ended")
    assert first[1:] == second[1:]
    assert all(torch.equal(second[0][key], value) for key, value in first[0].items())
    # And it can be gone on with.
    stack.stream("ended", resume=True).run()
    assert stack.result("ended")[1:] == stack.result("whole")[1:]
    assert len(mmcv.VideoReader(str(stack.folder / "ended/annotated.mp4"))) == 24


def test_detections_that_are_no_longer_wanted_stay(stack):
    stack.stream("quiet", max_frames=6).run()
    before = (stack.folder / "quiet/detections.jsonl").read_text()
    stack.stream("quiet", resume=True, max_frames=12, detections=False).run()
    stack.stream("quiet", resume=True, max_frames=14).run()
    after = (stack.folder / "quiet/detections.jsonl").read_text()
    assert after.startswith(before)
    assert [json.loads(line)["frame"] for line in after.splitlines()] == [0, 1, 2, 3, 4, 5, 12, 13]


def test_learning_stream_may_be_served_frozen_for_a_while(stack):
    """It serves what it has learnt, and its training goes on later where it was."""
    stack.stream("paused", max_frames=6).run()
    learnt = stack.result("paused")[0]
    before = StreamState.load(stack.folder / "paused/state.pth").training
    stack.stream("paused", resume=True, learns=False, max_frames=12).run()
    frozen = stack.result("paused")[0]
    assert all(torch.equal(learnt[key], value) for key, value in frozen.items())
    after = StreamState.load(stack.folder / "paused/state.pth").training
    assert after["session"]["steps"] == before["session"]["steps"] > 0
    stack.stream("paused", resume=True).run()
    weights, detections, _ = stack.result("paused")
    assert len(detections.splitlines()) == 24
    assert (
        StreamState.load(stack.folder / "paused/state.pth").training["session"]["steps"]
        > (before["session"]["steps"])
    )
    assert not torch.equal(weights["bbox_head.retina_cls.weight"], learnt["bbox_head.retina_cls.weight"])


def test_stream_that_cannot_be_gone_on_with_so_is_refused_in_one_line(stack):
    stack.stream("frozen", learns=False, max_frames=3).run()
    with pytest.raises(CheckpointError, match="without training; go on with --frozen, or begin anew"):
        stack.stream("frozen", resume=True)
    path = stack.folder / "frozen/state.pth"
    state = StreamState.load(path)
    for training, told in (
        (dict(state_dict=dict(state.training["state_dict"], more=torch.zeros(1))), "1 .*more"),
        (dict(session=dict(steps=3)), "holds no weights of a student"),
        ([1], "holds no weights of a student"),
    ):
        replace(state, training=training).save(path)
        with pytest.raises(CheckpointError, match=told) as refused:
            stack.stream("frozen", resume=True, learns=False)
        assert "\n" not in str(refused.value)


def test_weights_that_serve_are_those_before_what_is_held_back():
    good, trained, alone = (dict(state_dict=dict(weight=torch.tensor(value))) for value in (1.0, 2.0, 3.0))
    assert served_weights(dict(session=trained, good=good))["weight"] == 1
    assert served_weights(dict(session=trained, good=None))["weight"] == 2
    assert served_weights(alone)["weight"] == 3


@pytest.fixture
def replaced(stack):
    """A folder with a whole stream, a part of a video that was never joined, and a file of somebody else."""
    folder = stack.folder / "replaced"
    shutil.rmtree(folder, ignore_errors=True)
    stack.stream("replaced", max_frames=9).run()
    (folder / "annotated").mkdir()
    for name in ("stream.png", "annotated/0000000007.mp4", "notes.txt"):
        (folder / name).write_bytes(b"of the first stream")
    return folder


def test_stream_in_the_place_of_another_leaves_nothing_of_it(stack, replaced):
    other = write_video(stack.folder / "another.mp4", frames=12)
    # Killed before its first state.
    stream = stack.stream("replaced", video=other, save_every=100, detections=False)
    count = iter(range(100))

    def progress():
        if next(count) == 3:
            raise KilledError

    with pytest.raises(KilledError):
        stream.run(progress=progress)
    files = {str(path.relative_to(replaced)) for path in replaced.rglob("*") if path.is_file()}
    assert files == {"log.jsonl", "notes.txt", "annotated/0000000000.mp4"}
    for video in (None, other):
        with pytest.raises(CheckpointError, match="no stream can be resumed"):
            stack.stream("replaced", resume=True, video=video)


def test_kill_while_a_stream_is_replaced_leaves_the_whole_or_what_cannot_be_resumed(replaced, monkeypatch):
    unlink = Path.unlink
    for moment in range(20):
        copy = replaced.with_name(f"replaced_{moment}")
        shutil.copytree(replaced, copy)
        left = iter(range(moment))

        def killed(path, *args, left=left, **kwargs):
            if next(left, None) is None:
                raise KilledError
            unlink(path, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", killed)
            try:
                remove_stream(copy)
            except KilledError:
                ended = False
            else:
                ended = True
        names = {path.name for path in copy.rglob("*") if path.is_file()}
        whole = names == {path.name for path in replaced.rglob("*") if path.is_file()}
        assert whole == ("state.pth" in names)
        assert "log.jsonl" in names  # a stream is there until the next one begins its log
        assert (copy / "notes.txt").exists()
        if ended:
            break
    assert ended
    assert moment > 3
    assert names == {"log.jsonl", "notes.txt"}


def test_state_of_another_video_is_refused(stack):
    other = write_video(stack.folder / "other.mp4", frames=3)
    stack.stream("of_one", max_frames=6).run()
    with pytest.raises(ConfigError, match=r"is of .*video.mp4, not of .*other.mp4"):
        stack.stream("of_one", resume=True, video=other)


def test_missing_and_damaged_states_are_refused(stack, tmp_path):
    with pytest.raises(CheckpointError, match="no stream can be resumed"):
        stack.stream("nowhere", resume=True)
    (stack.folder / "damaged").mkdir()
    (stack.folder / "damaged/state.pth").write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        stack.stream("damaged", resume=True)
    torch.save(dict(state_dict={}), stack.folder / "damaged/state.pth")
    with pytest.raises(CheckpointError, match="is no state of a stream"):
        stack.stream("damaged", resume=True)


def test_unreadable_video_saves_and_ends(stack, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    stack.stream("unreadable", video=str(tmp_path / "bad.mp4")).run()
    assert "has no frame that can be decoded" in capsys.readouterr().out
    weights, detections, log = stack.result("unreadable")
    assert detections == ""
    assert [line["frame"] for line in log] == [0]
    before = torch.load(stack.cfg.load_from, weights_only=True)["state_dict"]
    assert all(torch.equal(before[key], value) for key, value in weights.items())
