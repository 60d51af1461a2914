"""Parameters and multiply-adds of a config's networks, and the time and memory of a training step, part by part.

lad info CONFIG [--shape HEIGHT WIDTH] [--batch N] [--device cuda] [--out info.json]

Needs neither data nor a download: images and boxes are random, pretrained backbones are not loaded, and a teacher whose
checkpoint is no local file has random weights (marked in the table).
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from pathlib import Path

from lad.analysis.profiling import profile_config
from lad.cli.arguments import read_config
from lad.cli.messages import one_line_errors
from lad.cli.options import add_config_options

import torch
from mmengine.registry import init_default_scope


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file, or PACKAGE::PATH of an installed package")
    parser.add_argument("--shape", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the images")
    parser.add_argument("--batch", type=int, help="images of a training step (default: the config's)")
    parser.add_argument("--objects", type=int, default=7, help="boxes of each image (default: 7, as in COCO)")
    parser.add_argument("--steps", type=int, default=5, help="training steps to time; 0 counts only")
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    parser.add_argument("--random-teacher", action="store_true", help="do not load the teacher's checkpoint")
    add_config_options(parser)
    parser.add_argument(
        "--out", metavar="FILE", help="write all figures as JSON: seconds, bytes, multiply-adds"
    )
    return parser.parse_args()


def main() -> None:
    """Run ``lad info``."""
    args = parse_args()
    # MMEngine lists every weight that it initialises; MMDetection repeats its deprecations.
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    with one_line_errors():
        args.launcher, args.local_rank, args.work_dir = "none", 0, None
        cfg = read_config(args)
        init_default_scope(cfg.get("default_scope", "mmdet"))
        report = profile_config(
            cfg,
            shape=args.shape,
            batch_size=args.batch,
            objects=args.objects,
            steps=args.steps,
            device=args.device,
            random_teacher=args.random_teacher,
        )
        print(report)
        if args.out is not None:
            Path(args.out).write_text(
                json.dumps(dict(config=args.config, **report.to_dict()), indent=2) + "\n"
            )
