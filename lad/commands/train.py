"""Train a detector, or a student with its teacher, with the options of MMDetection's ``tools/train.py``."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path

from lad.analysis.dry_run import describe_config
from lad.cli.arguments import (
    add_arguments,
    learning_rate_mismatch,
    log_to_tensorboard,
    prepare_training,
    read_config,
)
from lad.cli.checks import check_training
from lad.cli.messages import config_errors, one_line_errors, run_errors
from lad.detectors.configs import check_layer_decay
from lad.engine import standalone
from lad.engine.config_files import (
    check_replaceable,
    config_beside_log,
    dump_replaces_source,
    write_network_config,
)
from lad.engine.leaving import leaving_process_group
from lad.engine.plain_config import plain_configs

from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.registry import RUNNERS
from mmengine.runner import Runner


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Train a detector, or a student with its teacher, with MMDetection's options."
    )
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
    parser.add_argument(
        "--resume-schedule",
        choices=["checkpoint", "config"],
        help="whose optimizer settings and param_scheduler a resumed run goes on with (default: the checkpoint's)",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="log to TensorBoard too: tensorboard --logdir WORK_DIR",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what is distilled (modules, shapes, connectors, losses), write nothing and train nothing",
    )
    return parser.parse_args()


def train(cfg: Config) -> None:
    """Train as the prepared config says."""
    with config_errors():
        plain = {name: standalone(config) for name, config in plain_configs(cfg).items()}
        files = {name: Path(cfg.work_dir) / f"{name}.py" for name in plain}
        for name, file in files.items():
            check_replaceable(plain[name], file)
    beside = dump_replaces_source(cfg) or Path(cfg.filename or "").stem in plain
    with config_errors(), config_beside_log() if beside else nullcontext():
        runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
        check_training(runner)
    if is_main_process():
        for name, config in plain.items():
            write_network_config(config, files[name])
        if mismatch := learning_rate_mismatch(cfg, get_world_size()):
            runner.logger.warning(mismatch)
    with run_errors(runner):
        runner.train()


def main() -> None:
    """Run ``lad train``."""
    args = parse_args()
    with one_line_errors(), leaving_process_group():
        with config_errors():
            cfg = read_config(args)
        if args.dry_run:
            print(describe_config(cfg))
            return
        with config_errors():
            prepare_training(
                cfg,
                amp=args.amp,
                auto_scale_lr=args.auto_scale_lr,
                resume=args.resume,
                resume_schedule=args.resume_schedule,
            )
            if args.tensorboard:
                log_to_tensorboard(cfg)
        check_layer_decay(cfg)
        train(cfg)
