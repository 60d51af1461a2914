"""Latency of a teacher, its student and the exported student, for one image on a CPU, in one run.

python tools/benchmarks/export.py --teacher CONFIG [CHECKPOINT] --student CONFIG [CHECKPOINT] --onnx FILE [FILE ...]

Each row is the whole way from the prepared image to the boxes: normalisation, network, decoding, suppression. Rows run
in turn; ratios are to the student in PyTorch, medians over the repeats with their range. Images are those of --images,
or of the student's test data, and as large as the first file's input. Without a checkpoint weights are random, and so
is the number of boxes that is suppressed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from pathlib import Path

from lad.base.config import load_config
from lad.engine.plain_config import student_only
from lad.export import OnnxDetector
from lad.export.evaluation import real_images
from lad.networks.verified_checkpoint import load_verified

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from timing import alternate, ratio


def build(config: str, checkpoint: str | None) -> BaseDetector:
    """A config's plain detector in eval mode, with a checkpoint's weights."""
    detector = MODELS.build(student_only(load_config(config)).model).eval()
    if checkpoint is not None:
        load_verified(detector, checkpoint, owner="the benchmark")
    return detector


def detect(detector: BaseDetector, image: np.ndarray) -> None:
    """Run a detector on one prepared image (3, H, W), as MMDetection tests."""
    shape = image.shape[1:]
    meta = dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0))
    with torch.no_grad():
        detector.test_step(
            dict(inputs=[torch.from_numpy(image)], data_samples=[DetDataSample(metainfo=meta)])
        )


def megabytes(detector: BaseDetector) -> float:
    """Size of the weights, in MB."""
    return sum(tensor.numel() * tensor.element_size() for tensor in detector.state_dict().values()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", nargs="+", required=True, metavar="CONFIG [CHECKPOINT]")
    parser.add_argument("--student", nargs="+", required=True, metavar="CONFIG [CHECKPOINT]")
    parser.add_argument("--onnx", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--images", metavar="FOLDER")
    parser.add_argument("--num-images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time of this process, which others disturb less"
    )
    args = parser.parse_args()
    for name in ("teacher", "student"):
        if len(getattr(args, name)) > 2:
            parser.error(f"--{name} takes a config and a checkpoint")
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    init_default_scope("mmdet")
    torch.set_num_threads(args.threads)
    files = {Path(file).name: OnnxDetector(file, threads=args.threads) for file in args.onnx}
    first = next(iter(files.values()))
    cfg = student_only(load_config(args.student[0]))
    images = [first.rule.prepare(image)[0] for image in real_images(cfg, args.images, args.num_images)]
    detectors = {
        name: build(*getattr(args, name), *[None] * (2 - len(getattr(args, name))))
        for name in ("teacher", "student")
    }
    tasks = {
        name: lambda detector=detector: [detect(detector, image) for image in images]
        for name, detector in detectors.items()
    } | {name: lambda file=file: [file.run(image[None]) for image in images] for name, file in files.items()}
    clock = time.process_time if args.cpu_time else time.perf_counter
    seconds = alternate(tasks, args.repeats, clock=clock)
    height, width = first.rule.shape
    print(
        f"torch {torch.__version__}, Python {sys.version.split()[0]}, {args.threads} threads, batch 1, "
        f"{width} x {height}, {len(images)} images, {args.repeats} repeats"
        f"{', CPU time' if args.cpu_time else ''}"
    )
    print("| detector | size | an image | of the student's time |\n|---|---|---|---|")
    sizes = {name: megabytes(detector) for name, detector in detectors.items()}
    sizes |= {Path(file).name: Path(file).stat().st_size / 1e6 for file in args.onnx}
    for name, size in sizes.items():
        relative = ratio(seconds[name], seconds["student"])
        milliseconds = relative.slow * 1e3 / len(images)
        print(f"| {name} | {size:.1f} MB | {milliseconds:.1f} ms | {str(relative).strip()} |")


if __name__ == "__main__":
    main()
