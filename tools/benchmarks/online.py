"""F1 of an online student and of the same student frozen, on videos with known boxes; one student and video a seed.

python tools/benchmarks/online.py CONFIG --data FILE --images FOLDER --students CHECKPOINT ... --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

from lad.analysis.pictures.stream import draw_stream, read_log
from lad.cli.messages import one_line_errors
from lad.cli.options import add_config_options
from lad.commands.online_distill import read_networks
from lad.datasets.panning_video import ANNOTATIONS, VIDEO, PanningParameters, make_video
from lad.errors import ConfigError
from lad.online.accuracy import Agreement, agreement
from lad.online.building import Networks, build_student, build_trainer
from lad.online.detector import FrameDetector
from lad.online.frames import open_frames
from lad.online.process import LearningHere
from lad.online.settings import OnlineSettings
from lad.online.stream import DETECTIONS, LOG, OnlineStream, StreamOptions

import numpy as np
import torch
from mmengine.structures import InstanceData
from mmengine.utils import ProgressBar
from scipy.special import stdtrit

#: Frames between two that the teacher is scored on.
EVERY = 5
#: Scores at which the frozen student is tried.
THRESHOLDS = [round(0.05 * step, 2) for step in range(1, 20)]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="an online distillation, as in configs/online/")
    parser.add_argument("--data", type=Path, required=True, help="COCO file to film")
    parser.add_argument("--images", type=Path, required=True, help="folder of its photographs")
    parser.add_argument(
        "--students", nargs="+", required=True, metavar="CHECKPOINT", help="one for each seed"
    )
    parser.add_argument("--teacher", metavar="CHECKPOINT", help="default: the config's")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder; what is in it already is not done again"
    )
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--shot", type=int, default=100, help="frames between two cuts")
    parser.add_argument("--zoom", type=float, nargs=2, default=[1.0, 1.25], metavar=("LEAST", "MOST"))
    parser.add_argument("--brightness", type=float, nargs=2, default=[0.95, 1.15], metavar=("LEAST", "MOST"))
    parser.add_argument("--classes", nargs="+", help="the students' class names, where checkpoints have none")
    add_config_options(parser)
    return parser.parse_args()


def networks_of(args: argparse.Namespace, student: str) -> tuple[Networks, OnlineSettings]:
    """As the command would have them."""
    command = argparse.Namespace(
        config=args.config,
        cfg_options=args.cfg_options,
        teacher=args.teacher,
        student=student,
        seed=0,
        classes=args.classes,
        device="cpu",
    )
    return read_networks(command)


def read_boxes(path: Path, frames: int) -> list[InstanceData]:
    """Detections that a stream wrote, a frame each."""
    lines = [json.loads(line) for line in path.read_text().splitlines()][:frames]
    return [
        InstanceData(
            bboxes=torch.tensor(line["bboxes"]).reshape(-1, 4),
            labels=torch.tensor(line["labels"], dtype=torch.long),
            scores=torch.tensor(line["scores"]),
        )
        for line in lines
    ]


def known_boxes(path: Path) -> list[InstanceData]:
    """The boxes of a video's frames."""
    content = json.loads(path.read_text())
    label = {category["id"]: number for number, category in enumerate(content["categories"])}
    frames: list[tuple[list, list]] = [([], []) for _ in content["images"]]
    for one in content["annotations"]:
        x, y, width, height = one["bbox"]
        boxes, labels = frames[one["image_id"] - 1]
        boxes.append([x, y, x + width, y + height])
        labels.append(label[one["category_id"]])
    return [
        InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.tensor(labels, dtype=torch.long))
        for boxes, labels in frames
    ]


def serve(
    folder: Path,
    video: Path,
    detector: FrameDetector,
    settings: OnlineSettings,
    learning: LearningHere | None,
) -> None:
    """Serve a video, unless that is done."""
    if (folder / "student.pth").exists():
        return
    frames = open_frames(str(video))
    bar = ProgressBar(frames.length, file=sys.stderr)
    score = settings.student_score if learning else THRESHOLDS[0]
    stream = OnlineStream(
        frames,
        detector,
        learning,
        settings.rules,
        score,
        StreamOptions(folder, video=False, detections=True),
        print,
    )
    stream.run(progress=bar.update)
    print(file=sys.stderr)
    (folder / "tally.json").write_text(json.dumps(vars(stream.tally)))


def teacher_labels(video: Path, teacher: FrameDetector, score: float) -> list[InstanceData]:
    """The teacher's boxes on some of the frames."""
    file = video.parent.parent / "teacher.json"
    if not file.exists():
        images = islice(open_frames(str(video)).read_from(0), 0, None, EVERY)
        found = [teacher.detect(teacher.prepare(image), score) for image in images]
        rows = [[one.bboxes.tolist(), one.labels.tolist()] for one in found]
        file.write_text(json.dumps(rows))
    return [
        InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.tensor(labels, dtype=torch.long))
        for boxes, labels in json.loads(file.read_text())
    ]


def above(found: list[InstanceData], score: float) -> list[InstanceData]:
    return [one[one.scores >= score] for one in found]


def scores(found: list[InstanceData], wanted: list[InstanceData]) -> list[Agreement]:
    return [agreement(*pair) for pair in zip(found, wanted, strict=True)]


def total(counts: list[Agreement]) -> float:
    return sum(counts, Agreement()).f1


def run_seed(args: argparse.Namespace, seed: int, student: str) -> dict[str, float]:
    """Make, serve and score one video."""
    folder = args.out / f"seed_{seed}"
    video = folder / "video" / VIDEO
    if not video.exists():
        parameters = PanningParameters(
            frames=args.frames,
            shot=args.shot,
            zoom=tuple(args.zoom),
            brightness=tuple(args.brightness),
            seed=seed,
        )
        make_video(json.loads(args.data.read_text()), args.images, video.parent, parameters)
    networks, settings = networks_of(args, student)
    settings = replace(settings, seed=seed)
    detector, _ = build_student(networks)
    serve(folder / "frozen", video, detector, settings, None)
    trainer = build_trainer(networks, settings)
    labels = teacher_labels(video, trainer.teacher, settings.teacher_score)
    serve(folder / "online", video, detector, settings, LearningHere(trainer, detector))
    log = read_log(folder / "online" / LOG)
    truth = known_boxes(video.parent / ANNOTATIONS)
    frozen, online = (read_boxes(folder / name / DETECTIONS, args.frames) for name in ("frozen", "online"))
    at_score = above(frozen, settings.student_score)
    best = max(THRESHOLDS, key=lambda score: total(scores(above(frozen, score), truth)))
    per_frame = {
        "online, against the known boxes": scores(online, truth),
        "frozen, against the known boxes": scores(at_score, truth),
    }
    draw_stream(
        log,
        folder / "stream.png",
        args.frames,
        {name: np.array([one.f1 for one in counts]) for name, counts in per_frame.items()},
    )
    tally = json.loads((folder / "online" / "tally.json").read_text())
    return {
        "teacher, known boxes": total(scores(labels, truth[::EVERY])),
        "frozen, known boxes": total(scores(at_score, truth)),
        "frozen at its best score, known boxes": total(scores(above(frozen, best), truth)),
        "online, known boxes": total(scores(online, truth)),
        "frozen, teacher's boxes": total(scores(at_score[::EVERY], labels)),
        "online, teacher's boxes": total(scores(online[::EVERY], labels)),
        "best score of the frozen student": best,
        "labelled frames": len(log) / args.frames,
        "training steps": tally["updates"],
        "frames held back": tally["held_back"],
        "frames/s, student": tally["frames"] / max(tally["student_seconds"], 1e-9),
        "frames/s, teacher": tally["labelled"] / max(tally["teacher_seconds"], 1e-9),
        "steps/s, training": tally["updates"] / max(tally["training_seconds"], 1e-9),
    }


def table(rows: list[dict[str, float]]) -> str:
    """Markdown: a row for each figure, a column for each seed, and the mean."""
    seeds = range(len(rows))
    lines = [f"| | {' | '.join(f'seed {seed}' for seed in seeds)} | mean |", "|---" * (len(rows) + 2) + "|"]
    for name in rows[0]:
        values = [row[name] for row in rows]
        cells = [
            f"{value:.3f}" if value < 2 else f"{value:.1f}" for value in (*values, float(np.mean(values)))
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for against in ("frozen", "frozen at its best score"):
        gains = np.array([row["online, known boxes"] - row[f"{against}, known boxes"] for row in rows])
        lines.append(f"\nonline - {against}, known boxes: {interval(gains)}")
    gains = np.array([row["online, teacher's boxes"] - row["frozen, teacher's boxes"] for row in rows])
    lines.append(f"\nonline - frozen, teacher's boxes: {interval(gains)}")
    return "\n".join(lines)


def interval(gains: np.ndarray) -> str:
    """Mean of paired differences and its 95 % interval by Student's t."""
    count = len(gains)
    if count < 2:
        return f"{gains.mean():+.3f}"
    reach = stdtrit(count - 1, 0.975) * gains.std(ddof=1) / count**0.5
    return f"{gains.mean():+.3f} ({gains.mean() - reach:+.3f} to {gains.mean() + reach:+.3f})"


def main() -> None:
    args = parse_args()
    with one_line_errors():
        if not args.data.is_file():
            raise ConfigError(f"there is no annotation file {args.data}.")
        args.out.mkdir(parents=True, exist_ok=True)
        rows = [run_seed(args, seed, student) for seed, student in enumerate(args.students)]
        (args.out / "figures.json").write_text(json.dumps(rows, indent=1))
        print(table(rows))


if __name__ == "__main__":
    main()
