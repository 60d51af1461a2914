"""Train a detector: python tools/train.py CONFIG, with MMDetection's options."""

from __future__ import annotations

import argparse
from pathlib import Path

from lad.checks import check_training
from lad.cli import add_arguments, one_line_errors, prepare_training, read_config, student_only

from mmengine.dist import is_main_process
from mmengine.registry import RUNNERS
from mmengine.runner import Runner


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--amp", action="store_true", help="mixed precision (bfloat16 on a CPU)")
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from a checkpoint, or from the last one in the work_dir",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_line_errors():
        cfg = read_config(args)
        prepare_training(cfg, amp=args.amp, auto_scale_lr=args.auto_scale_lr, resume=args.resume)
        plain = student_only(cfg)
        runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
        check_training(runner)
        if plain is not cfg and is_main_process():
            # For whoever gets the checkpoint: mmdet.apis.init_detector(student.py, checkpoint).
            plain.dump(Path(runner.work_dir) / "student.py")
        runner.train()


if __name__ == "__main__":
    main()
