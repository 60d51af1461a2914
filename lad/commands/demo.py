"""Train a teacher, a student alone and the student with its teacher's labels on real digits; print one table.

An interrupted demo goes on where it stopped when it is started again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lad.analysis.pictures.detections import Detections, draw_comparison
from lad.base.config import SHIPPED, load_config
from lad.cli.messages import one_line_errors
from lad.datasets import DIGIT_CLASSES
from lad.engine.plain_config import student_only
from lad.errors import LadError
from lad.networks.verified_checkpoint import load_verified

import torch
from mmdet.evaluation import DumpDetResults
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.fileio import load
from mmengine.runner import Runner
from pycocotools.coco import COCO


@dataclass(frozen=True)
class Entry:
    """One row of the table: a name for people, a folder, a config that the package ships."""

    name: str
    folder: str
    config: str


ENTRIES = (
    Entry("teacher", "teacher", "lad::lad/paa_r18-c32_fpn_digits.py"),
    Entry("student alone", "student", "lad::lad/paa_r18-c16_fpn_digits.py"),
    Entry("student with LAD", "lad", "lad::lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits.py"),
)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo"))
    parser.add_argument("--data", type=Path, default=Path("data/digits"), help="made if it is not there")
    parser.add_argument("--images", type=int, default=800, help="training images to make")
    parser.add_argument("--val-images", type=int, default=200, help="validation images to make")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights and order of images")
    parser.add_argument("--epochs", type=int, help="instead of the configs' schedule")
    return parser.parse_args()


def make_data(args: argparse.Namespace) -> None:
    """Make the demo data unless it is there."""
    script = SHIPPED / "tools/dataset_converters/make_digits.py"
    command = [sys.executable, str(script), "--out", str(args.data), "--images", str(args.images)]
    if subprocess.run([*command, "--val-images", str(args.val_images)], check=False).returncode != 0:
        sys.exit(2)


def train(entry: Entry, args: argparse.Namespace) -> float:
    """Train one entry unless it is finished; returns the seconds spent on it in all."""
    folder = args.work_dir / entry.folder
    record = folder / "training.json"
    seconds, finished = 0.0, False
    if record.is_file():
        before = json.loads(record.read_text())
        seconds, finished = before["seconds"], before["finished"]
    if finished:
        print(f"{entry.name}: already trained in {folder}")
        return seconds
    options = [f"{loader}_dataloader.dataset.data_root={args.data}/" for loader in ("train", "val")]
    options += [f"val_evaluator.ann_file={args.data}/annotations/val.json", f"randomness.seed={args.seed}"]
    if args.epochs is not None:
        options += [f"train_cfg.max_epochs={args.epochs}", f"train_cfg.val_interval={args.epochs}"]
    if entry.folder == "lad":
        options.append(f"model.teacher.checkpoint={checkpoint(args.work_dir / 'teacher')}")
    command = [sys.executable, str(SHIPPED / "tools/train.py"), entry.config, "--work-dir", str(folder)]
    command += ["--resume", "--cfg-options", *options]
    print(f"\n== {entry.name}: {entry.config}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    code = 1
    try:
        code = subprocess.run(command, check=False).returncode
    finally:
        seconds += time.perf_counter() - start
        record.write_text(json.dumps(dict(seconds=seconds, finished=code == 0)))
    if code != 0:
        sys.exit(
            f"error: training of the {entry.name} ended with exit code {code}; start again to resume it."
        )
    return seconds


def checkpoint(folder: Path) -> Path:
    """The last checkpoint that MMEngine wrote in a work_dir."""
    return Path((folder / "last_checkpoint").read_text().strip())


def evaluate(entry: Entry, args: argparse.Namespace) -> tuple[dict[str, float], list[dict], int]:
    """COCO metrics, detections of every validation image, and the number of the detector's weights."""
    folder = args.work_dir / entry.folder
    cfg = student_only(load_config(entry.config))
    cfg.merge_from_dict(
        {
            "work_dir": str(folder / "test"),
            "load_from": str(checkpoint(folder)),
            "test_dataloader.dataset.data_root": f"{args.data}/",
            "test_evaluator.ann_file": f"{args.data}/annotations/val.json",
        }
    )
    runner = Runner.from_cfg(cfg)
    file = folder / "detections.pkl"
    runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=str(file)))
    metrics = runner.test()
    weights = sum(parameter.numel() for parameter in runner.model.parameters())
    return metrics, load(file), weights


def ground_truth(annotations: COCO, image: int) -> Detections:
    """The annotated boxes of one image."""
    found = annotations.loadAnns(annotations.getAnnIds(image))
    boxes = torch.tensor([a["bbox"] for a in found], dtype=torch.float32).view(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = [annotations.getCatIds().index(a["category_id"]) for a in found]
    return Detections(
        bboxes=boxes.numpy(), scores=torch.ones(len(found)).numpy(), labels=torch.tensor(labels).numpy()
    )


def predicted(result: dict) -> Detections:
    """Detections of a detector in one image."""
    found = result["pred_instances"]
    return Detections(**{name: found[name].numpy() for name in ("bboxes", "scores", "labels")})


def draw(results: dict[str, list[dict]], args: argparse.Namespace, count: int = 6) -> Path:
    """The same validation images as annotated, by the student alone and by the distilled student."""
    annotations = COCO(str(args.data / "annotations/val.json"))
    columns = {name: found for name, found in results.items() if name != "teacher"}
    by_image = {name: {found["img_id"]: found for found in column} for name, column in columns.items()}
    # Evenly spread over the validation set, not chosen by their results.
    images = sorted(annotations.getImgIds())[:: max(1, len(annotations.imgs) // count)][:count]
    file = args.work_dir / "detections.png"
    draw_comparison(
        [args.data / "images/val" / annotations.imgs[image]["file_name"] for image in images],
        [ground_truth(annotations, image) for image in images],
        {name: [predicted(found[image]) for image in images] for name, found in by_image.items()},
        DIGIT_CLASSES,
        file,
        score_thr=0.5,
    )
    return file


def export_student(entry: Entry, args: argparse.Namespace) -> str:
    """Export a trained entry beside its checkpoint; returns its size and time an image, or why there is no file."""
    # Needs packages that a training does not.
    try:
        from lad.export import ExportSettings, OnnxDetector, export_onnx, input_rule
        from lad.export.evaluation import read_image
        from lad.export.preparation import own_steps

        cfg = student_only(load_config(entry.config))
        detector = MODELS.build(cfg.model)
        load_verified(detector, str(checkpoint(args.work_dir / entry.folder)), owner="lad demo")
        paths = sorted((args.data / "images/val").iterdir())[:8]
        images = [read_image(path) for path in paths]
        settings = ExportSettings(rule=input_rule(cfg), classes=DIGIT_CLASSES, pipeline=own_steps(cfg))
        file = args.work_dir / entry.folder / "student.onnx"
        export_onnx(detector, file, settings, images, entry.config)
    except LadError as error:
        return f"The {entry.name} is not exported: {error}"
    exported = OnnxDetector(file, threads=torch.get_num_threads())
    inputs = [torch.from_numpy(settings.rule.prepare(image)[0]) for image in images]
    meta = dict(img_shape=settings.rule.shape, ori_shape=settings.rule.shape, scale_factor=(1.0, 1.0))

    def with_torch(image: torch.Tensor) -> None:
        with torch.no_grad():
            detector.test_step(dict(inputs=[image], data_samples=[DetDataSample(metainfo=meta)]))

    seconds: dict[str, list[float]] = {"torch": [], "onnx": []}
    for image in inputs:  # in turn, so that a busy machine slows both
        for name, run in (
            ("torch", with_torch),
            ("onnx", lambda one: exported.run(one[None].numpy())),
        ):
            start = time.perf_counter()
            run(image)
            seconds[name].append(1e3 * (time.perf_counter() - start))
    # The first is for warming up.
    own, other = (statistics.median(times[1:]) for times in seconds.values())
    return (
        f"{file}: the {entry.name} for ONNX Runtime, {file.stat().st_size / 1e6:.1f} MB, {other:.0f} ms an image "
        f"(PyTorch: {own:.0f} ms)."
    )


def table(rows: list[dict]) -> str:
    """The results as Markdown."""
    lines = ["| detector | mAP | AP50 | AP75 | parameters | training time |", "|---|---|---|---|---|---|"]
    for row in rows:
        minutes, seconds = divmod(round(row["seconds"]), 60)
        lines.append(
            f"| {row['name']} | {row['mAP']:.3f} | {row['AP50']:.3f} | {row['AP75']:.3f} "
            f"| {row['parameters'] / 1e6:.2f} M | {minutes}:{seconds:02d} min |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run ``lad demo``."""
    args = parse_args()
    with one_line_errors():
        make_data(args)
        spent = {entry.folder: train(entry, args) for entry in ENTRIES}
        rows: list[dict[str, Any]] = []
        results = {}
        for entry in ENTRIES:
            metrics, results[entry.name], parameters = evaluate(entry, args)
            rows.append(
                dict(
                    name=entry.name,
                    mAP=metrics["coco/bbox_mAP"],
                    AP50=metrics["coco/bbox_mAP_50"],
                    AP75=metrics["coco/bbox_mAP_75"],
                    parameters=parameters,
                    seconds=spent[entry.folder],
                )
            )
        picture = draw(results, args)
        exported = export_student(ENTRIES[2], args)
    (args.work_dir / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    (args.work_dir / "results.md").write_text(table(rows) + "\n")
    gain = rows[2]["mAP"] - rows[1]["mAP"]
    print(
        f"\n{table(rows)}\n\nLAD changes the student's mAP by {gain:+.3f} (one run each, seed {args.seed})."
    )
    print(exported)
    print(f"Pictures: {picture}")
