"""Export a trained detector as an ONNX file with decoding and suppression, checked against PyTorch.

lad export CONFIG CHECKPOINT --out detector.onnx
lad export CONFIG CHECKPOINT --out detector.onnx --int8

A distillation config exports its student. The file is kept only if ONNX Runtime finds in real images what PyTorch
finds. With --int8 a second file, detector.int8.onnx, is quantised on calibration images, and both are evaluated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lad.base.config import load_config, merge_options
from lad.cli.checks import head_classes
from lad.cli.messages import one_line_errors
from lad.cli.options import add_config_options
from lad.engine.plain_config import student_only
from lad.errors import CheckpointError, ConfigError
from lad.export import ExportSettings, OnnxDetector, check_exportable, export_onnx, input_rule
from lad.export.compare import TOLERANCE
from lad.export.evaluation import evaluate, real_images
from lad.export.int8 import quantize
from lad.networks.verified_checkpoint import class_names, load_verified

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
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
    if not Path(args.checkpoint).is_file():
        raise CheckpointError(f"there is no checkpoint {args.checkpoint!r}.")
    cfg = load_config(args.config)
    merge_options(cfg, args.cfg_options or {}, "--cfg-options")
    init_default_scope(cfg.get("default_scope", "mmdet"))
    cfg = student_only(cfg)
    detector, classes = trained_detector(cfg, args.checkpoint, args.classes)
    settings = ExportSettings(
        rule=input_rule(cfg, None if args.shape is None else (args.shape[0], args.shape[1])),
        classes=classes,
        num=args.max_per_image,
        dtype=torch.float32 if args.float_input else torch.uint8,
        tolerance=args.tolerance,
    )
    images = real_images(cfg, args.images, args.num_images)
    difference = export_onnx(detector, out, settings, images, args.config)
    height, width = settings.rule.shape
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, images of {width} x {height}; {difference.count} detections in "
        f"{len(images)} images, alone and in a batch, differ from PyTorch's by at most {difference.box:.1e} pixels and "
        f"{difference.score:.1e} in score"
    )
    if args.int8:
        calibration = real_images(cfg, args.calibration, args.num_calibration, "train_dataloader")
        nodes = quantize(out, small, calibration)
        print(
            f"{small}: {small.stat().st_size / 1e6:.1f} MB, {nodes} operators in int8, calibrated on "
            f"{len(calibration)} images"
        )
        if not args.no_evaluation:
            print(table({path.name: evaluated(cfg, path) for path in (out, small)}))


def trained_detector(
    cfg: Config, checkpoint: str, classes: list[str] | None
) -> tuple[BaseDetector, tuple[str, ...]]:
    """The detector of a plain config with a checkpoint's weights, and the names of its classes.

    Raises:
        CheckpointError: it does not fit.
        ConfigError: the classes have no names, or not as many as the head has.
        UnsupportedError: the detector cannot be exported.
    """
    model = MODELS.build(cfg.model)
    check_exportable(model)
    meta = load_verified(model, checkpoint, owner="lad export")
    names = tuple(classes or class_names(meta) or ())
    if not names:
        raise ConfigError("the checkpoint does not name its classes: give their names with --classes.")
    for name, known in head_classes(model):
        if known != len(names):
            raise ConfigError(
                f"{name} has {known} classes and {len(names)} names are given: name all in --classes."
            )
    return model, names


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
