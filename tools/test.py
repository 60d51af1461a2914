"""Evaluate a checkpoint: python tools/test.py CONFIG CHECKPOINT, with MMDetection's options.

A distillation config is evaluated as its student alone; the teacher is not needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lad.cli import add_arguments, one_line_errors, read_config, student_only
from lad.errors import CheckpointError, ConfigError

from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults
from mmengine.registry import RUNNERS
from mmengine.runner import Runner


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("--out", metavar="FILE.pkl", help="write the predictions for offline evaluation")
    parser.add_argument("--show", action="store_true", help="show the predictions in windows")
    parser.add_argument("--show-dir", help="folder for pictures of the predictions, under WORK_DIR/TIMESTAMP")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds a window stays with --show")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_line_errors():
        if args.out is not None and not args.out.endswith((".pkl", ".pickle")):
            raise ConfigError(f"--out must end in .pkl or .pickle, got {args.out!r}.")
        if "://" not in args.checkpoint and not Path(args.checkpoint).is_file():
            raise CheckpointError(f"there is no checkpoint {args.checkpoint!r}.")
        cfg = student_only(read_config(args))
        cfg.load_from = args.checkpoint
        if args.show or args.show_dir:
            trigger_visualization_hook(cfg, args)
        runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
        if args.out is not None:
            runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
        runner.test()


if __name__ == "__main__":
    main()
