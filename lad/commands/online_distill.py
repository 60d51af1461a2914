"""Serve a video, camera or network stream with a student that learns on it from a teacher (JITNet).

lad online-distill CONFIG --video FILE|FOLDER|URL|CAMERA

The config is a plain detector's, with `load_from` (the student), `optim_wrapper` and `online` (the teacher and
settings), as in configs/online/. The work_dir gets student.pth, a plain checkpoint; log.jsonl, a line for each frame
that the teacher labelled; stream.png; annotated.mp4; and state.pth, from which --resume goes on. Ctrl-C and SIGTERM end
the stream as its own end does: everything is saved, and the exit code is 0.
"""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path
from typing import Any

from lad.analysis.pictures.stream import draw_stream, read_log
from lad.base.config import load_config, merge_options
from lad.base.status import StatusDisplay, clock
from lad.cli.messages import config_errors, one_line_errors
from lad.cli.options import add_config_options
from lad.engine.plain_config import student_only
from lad.errors import ConfigError, LadError
from lad.online.building import Networks, build_student, build_trainer
from lad.online.detector import FrameDetector
from lad.online.files import LOG, OF_A_STREAM, PICTURE, STUDENT
from lad.online.frames import Frames, open_frames
from lad.online.object_weights import WORKS_WITH, ObjectWeighting
from lad.online.process import Learning, LearningApart, LearningHere
from lad.online.settings import OnlineSettings
from lad.online.state import Tally
from lad.online.stream import OnlineStream, StreamOptions

from mmengine.device import get_device
from rich.console import Console


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file, or PACKAGE::PATH of an installed package")
    parser.add_argument(
        "--video",
        required=True,
        metavar="SOURCE",
        help="video file, folder of images, address (rtsp://..., http://...) or number of a camera",
    )
    parser.add_argument(
        "--student", metavar="CHECKPOINT", help="the student's (default: load_from of the config)"
    )
    parser.add_argument(
        "--teacher",
        metavar="CHECKPOINT",
        help="the teacher's (default: online.teacher.checkpoint of the config)",
    )
    parser.add_argument("--work-dir", help="folder to write (default: work_dirs/CONFIG_NAME)")
    parser.add_argument("--resume", action="store_true", help="go on from the state in the work_dir")
    parser.add_argument("--force", action="store_true", help="begin anew in a work_dir that holds a stream")
    parser.add_argument(
        "--process",
        action="store_true",
        help="teacher and training in a process of their own: the stream never waits",
    )
    parser.add_argument("--frozen", action="store_true", help="serve the student as it is, for comparison")
    parser.add_argument("--frames", type=int, metavar="N", help="end after N frames")
    parser.add_argument(
        "--save-every", type=int, default=500, metavar="N", help="frames between two states (500)"
    )
    parser.add_argument(
        "--detections", action="store_true", help="write detections.jsonl, a line for each frame"
    )
    parser.add_argument("--no-video", action="store_true", help="do not write annotated.mp4")
    parser.add_argument(
        "--classes", nargs="+", help="the student's class names, where its checkpoint has none"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the training steps")
    parser.add_argument("--device", default=None, help="by default an accelerator if there is one")
    add_config_options(parser)
    return parser.parse_args()


def online_distill(args: argparse.Namespace) -> None:
    """Serve a stream as the arguments say."""
    networks, settings = read_networks(args)
    folder = Path(args.work_dir or Path("work_dirs") / Path(args.config).stem)
    for name in OF_A_STREAM:
        if (folder / name).exists() and not (args.resume or args.force):
            raise ConfigError(
                f"{folder} holds a stream ({name}): --resume goes on with it, --force begins anew in its place."
            )
    options = StreamOptions(folder, args.save_every, not args.no_video, args.detections, args.frames)
    frames = open_frames(args.video)
    with config_errors():
        student, _ = build_student(networks)
    display = StatusDisplay(lambda line: print(line, flush=True), Console())
    stop = StopSignals()
    learning: Learning | None = None
    try:
        if not args.frozen:
            learning = start_learning(args.process, networks, settings, student, display)
        stream = OnlineStream(
            frames,
            student,
            learning,
            settings.rules,
            settings.student_score,
            options,
            display.message,
            resume=args.resume,
        )
        start, served = time.perf_counter(), stream.tally.frames
        stream.run(stop.received, lambda: display.show(status(stream, frames, start, served)))
        seconds = time.perf_counter() - start
    finally:
        display.clear()
        if learning is not None:
            learning.close()
    print(summary(stream.tally, stream.tally.frames - served, seconds))
    log = read_log(folder / LOG)
    if log:
        draw_stream(log, folder / PICTURE, stream.tally.frames)
    print(f"{folder / STUDENT}: the student, a plain checkpoint")
    if stream.lost_training:
        raise LadError(f"the training ended before the stream: --resume goes on from the state in {folder}.")


def read_networks(args: argparse.Namespace) -> tuple[Networks, OnlineSettings]:
    """What the config and the arguments say of student, teacher and settings."""
    cfg = load_config(args.config)
    merge_options(cfg, args.cfg_options or {}, "--cfg-options")
    online: Any = cfg.pop("online", {})
    if not isinstance(online, dict):
        raise ConfigError(f"online must be a dict, got {online!r}.")
    online = dict(online)
    teacher = online.pop("teacher", None)
    if args.teacher is not None and isinstance(teacher, dict):
        teacher = dict(teacher, checkpoint=args.teacher)
    if teacher is None:
        raise ConfigError(
            f"{args.config} has no online.teacher: add online=dict(teacher=dict(config=PATH, checkpoint=PATH_OR_URL)), "
            "as configs/online/ does."
        )
    checkpoint = args.student or cfg.get("load_from")
    if not checkpoint:
        raise ConfigError(
            "there is no student to begin with: name its checkpoint with --student or load_from."
        )
    settings = OnlineSettings.from_config(online, args.seed)
    if cfg.get("model") is None:
        raise ConfigError(f"{args.config} has no model: give the config of a detector.")
    networks = Networks(
        student_only(cfg),
        str(checkpoint),
        teacher,
        tuple(args.classes) if args.classes else None,
        args.device or get_device(),
    )
    return networks, settings


def start_learning(
    apart: bool, networks: Networks, settings: OnlineSettings, student: FrameDetector, display: StatusDisplay
) -> Learning:
    """Build teacher and training, in this process or in one of their own."""
    unweighted = ObjectWeighting(student.model, settings.object_weight, settings.enlarged).unsupported
    if unweighted:
        display.message(
            f"objects weigh no more than background in {', '.join(unweighted)}: object_weight holds for {WORKS_WITH}."
        )
    if apart:
        return LearningApart(networks, settings, student)
    with config_errors():
        return LearningHere(build_trainer(networks, settings), student)


class StopSignals:
    """SIGINT and SIGTERM, which end the stream after the frame; the second one ends the program."""

    def __init__(self) -> None:
        self._received = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: object) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = True

    def received(self) -> bool:
        """Whether one has come."""
        return self._received


def status(stream: OnlineStream, frames: Frames, start: float, served: int) -> str:
    """The line below the messages, with the time left where it is known."""
    count, seconds = stream.tally.frames - served, time.perf_counter() - start
    left = ""
    if frames.length:
        left = f", {clock(seconds / count * (frames.length - stream.tally.frames))} left"
    return f"{stream.status}, {count / seconds:.1f} frames/s{left}"


def summary(tally: Tally, served: int, seconds: float) -> str:
    """Counts and throughput of a stream.

    Args:
        tally: Of the whole stream.
        served: Frames of this part of it.
        seconds: The time that this part took.
    """

    def rate(count: int, seconds: float, unit: str) -> str:
        return f"{count / seconds:.1f} {unit}/s" if seconds else "not used"

    share = tally.labelled / tally.frames if tally.frames else 0.0
    lines = [
        f"{tally.frames} frames, {tally.labelled} labelled by the teacher ({share:.1%}), F1 on them before any update "
        f"{tally.mean_f1:.3f}",
        f"{tally.updates} training steps, {tally.faults} left out; after {tally.held_back} labelled frames the trained "
        "student was held back",
        f"throughput: {rate(served, seconds, 'frames')} overall; student "
        f"{rate(tally.frames, tally.student_seconds, 'frames')}, teacher "
        f"{rate(tally.labelled, tally.teacher_seconds, 'frames')}, training "
        f"{rate(tally.updates, tally.training_seconds, 'steps')}",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run ``lad online-distill``."""
    args = parse_args()
    with one_line_errors():
        online_distill(args)


if __name__ == "__main__":
    main()
