"""Export a trained detector as an ONNX file with decoding and suppression, checked against PyTorch.

lad export CONFIG CHECKPOINT --out detector.onnx
lad export CONFIG CHECKPOINT --out detector.onnx --int8

A distillation config exports its student. The file is kept only if ONNX Runtime finds in real images what PyTorch
finds. With --int8 a second file, detector.int8.onnx, is quantised on calibration images, and both are evaluated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lad.cli.messages import one_line_errors
from lad.cli.options import add_config_options
from lad.cli.trained import load_weights, read_plain_config
from lad.errors import ConfigError
from lad.export import ExportSettings, OnnxDetector, check_exportable, export_onnx, input_rule
from lad.export.compare import TOLERANCE, Difference
from lad.export.evaluation import evaluate, real_images
from lad.export.int8 import quantize
from lad.export.onnx_file import check_numbers
from lad.export.preparation import own_steps
from lad.export.rule import InputRule

import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.utils import ProgressBar


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file, or PACKAGE::PATH of an installed package")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out", required=True, metavar="FILE.onnx", help="the file to write")
    parser.add_argument("--format", choices=["onnx"], default="onnx")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the input (default: what the test pipeline resizes and pads to)",
    )
    parser.add_argument(
        "--float-input", action="store_true", help="float32 images (0 to 255) instead of uint8"
    )
    parser.add_argument("--max-per-image", type=int, help="detections of an image (default: the config's)")
    parser.add_argument("--classes", nargs="+", help="class names, where the checkpoint has none")
    parser.add_argument(
        "--images", metavar="FOLDER", help="real images for the check (default: of the config's test data)"
    )
    parser.add_argument("--num-images", type=int, default=8, help="images for the check")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="largest difference of scores, and of pixels"
    )
    parser.add_argument("--int8", action="store_true", help="write a quantised file too, FILE.int8.onnx")
    parser.add_argument(
        "--calibration",
        metavar="FOLDER",
        help="images to quantise on (default: of the config's training data)",
    )
    parser.add_argument("--num-calibration", type=int, default=100, help="images to quantise on, at most")
    parser.add_argument("--no-evaluation", action="store_true", help="do not evaluate float and int8 file")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    add_config_options(parser)
    return parser.parse_args()


def export(args: argparse.Namespace) -> None:
    """Export as the arguments say."""
    out = Path(args.out)
    small = out.with_suffix(".int8.onnx")
    for path in [out, small] if args.int8 else [out]:
        if path.exists() and not args.force:
            raise ConfigError(f"{path} exists: give another --out, or --force to replace it.")
    if out.suffix != ".onnx":
        raise ConfigError(f"--out must end in .onnx, got {args.out!r}.")
    if args.num_images < 1 or args.num_calibration < 1:
        raise ConfigError("--num-images and --num-calibration must be at least 1.")
    check_numbers(args.max_per_image, args.tolerance)
    cfg = read_plain_config(args.config, args.checkpoint, args.cfg_options)
    detector = MODELS.build(cfg.model)
    check_exportable(detector)  # before its weights are read
    shape = None if args.shape is None else (args.shape[0], args.shape[1])
    rule = input_rule(cfg, shape)
    classes = load_weights(detector, args.checkpoint, args.classes, "lad export")
    settings = ExportSettings(
        rule=rule,
        classes=classes,
        num=args.max_per_image,
        dtype=torch.float32 if args.float_input else torch.uint8,
        tolerance=args.tolerance,
        pipeline=own_steps(cfg, shape),
    )
    images = real_images(cfg, args.images, args.num_images)
    difference = export_onnx(detector, out, settings, images, args.config)
    height, width = rule.shape
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, images of {width} x {height}; "
        f"{agreement(difference, len(images))}"
    )
    for warning in warnings_of(difference, rule, images):
        print(f"warning: {warning}", file=sys.stderr)
    if args.int8:
        calibration = real_images(cfg, args.calibration, args.num_calibration, "train_dataloader")
        nodes = quantize(out, small, calibration)
        print(
            f"{small}: {small.stat().st_size / 1e6:.1f} MB, {nodes} operators in int8, calibrated on "
            f"{len(calibration)} images"
        )
        if not args.no_evaluation:
            print(table({path.name: evaluated(cfg, path) for path in (out, small)}))


def agreement(difference: Difference, images: int) -> str:
    """What the check found."""
    if not difference.count:
        return f"nothing is detected in {images} images, so no detections were compared with PyTorch's"
    return (
        f"{difference.count} detections in {images} images, alone and in a batch, differ from PyTorch's by at most "
        f"{difference.box:.1e} pixels and {difference.score:.1e} in score"
    )


def warnings_of(difference: Difference, rule: InputRule, images: Sequence[np.ndarray]) -> list[str]:
    """What a check that the file passed leaves open, a line each."""
    lines = []
    if not difference.count:
        lines.append(
            "the check is empty: neither PyTorch nor the file detects anything in its images; check with others "
            "(--images FOLDER), or with a lower --cfg-options model.test_cfg.score_thr."
        )
    across = sum(map(rule.lies_across, images))
    if across:
        height, width = rule.shape
        lines.append(
            f"{across} of {len(images)} images lie across the input of {width} x {height}, and are smaller in it than "
            f"in the config's own test; export a second file for them with --shape {width} {height}."
        )
    return lines


def evaluated(cfg: Config, path: Path) -> dict[str, float]:
    """Metrics of a file by the config's evaluator, with a progress bar."""
    bar = ProgressBar(file=sys.stderr)
    metrics = evaluate(cfg, OnnxDetector(path), progress=bar.update)
    print(file=sys.stderr)
    return metrics


def table(metrics: dict[str, dict[str, float]]) -> str:
    """Metrics of files, as Markdown."""
    names = list(next(iter(metrics.values())))[:3]
    lines = [f"| file | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for file, values in metrics.items():
        lines.append(f"| {file} | {' | '.join(f'{values[name]:.4f}' for name in names)} |")
    return "\n".join(lines)


def main() -> None:
    """Run ``lad export``."""
    args = parse_args()
    with one_line_errors():
        export(args)


if __name__ == "__main__":
    main()
