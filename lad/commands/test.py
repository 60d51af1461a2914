"""Evaluate a checkpoint, with the options of MMDetection's ``tools/test.py``.

A distillation config is evaluated as its student alone; the teacher is not needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lad.cli.arguments import add_arguments, read_config
from lad.cli.checks import check_test_data
from lad.cli.config_settings import check_settings
from lad.cli.messages import config_errors, one_line_errors, run_errors
from lad.engine.config_files import config_beside_log
from lad.engine.defaults import verify_checkpoints
from lad.engine.leaving import leaving_process_group
from lad.engine.plain_config import student_only
from lad.errors import CheckpointError, ConfigError

from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint, with MMDetection's options.")
    add_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("--out", metavar="FILE.pkl", help="write the predictions for offline evaluation")
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation with the config's tta_model and tta_pipeline (default: flip and NMS)",
    )
    parser.add_argument("--show", action="store_true", help="show the predictions in windows")
    parser.add_argument("--show-dir", help="folder for pictures of the predictions, under WORK_DIR/TIMESTAMP")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds a window stays with --show")
    return parser.parse_args()


def with_tta(cfg: Config) -> Config:
    """Test through the config's ``tta_model`` and ``tta_pipeline``, in place; MMDetection's where it has none."""
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    if "tta_pipeline" not in cfg:
        print_log("the config has no tta_pipeline: its test images and their mirror images are used")
        meta_keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")
        flips = [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)]
        pack = [dict(type="PackDetInputs", meta_keys=meta_keys)]
        cfg.tta_pipeline = [*dataset.pipeline[:-1], dict(type="TestTimeAug", transforms=[flips, pack])]
    if "tta_model" not in cfg:
        print_log("the config has no tta_model: MMDetection's DetTTAModel is used")
        nms = dict(type="nms", iou_threshold=0.5)
        cfg.tta_model = dict(type="DetTTAModel", tta_cfg=dict(nms=nms, max_per_img=100))
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline
    return cfg


def test(cfg: Config, out: str | None) -> None:
    """Test as the config says; with a file, write the predictions."""
    # The config of the training stays in the work_dir: a test's is the student's alone.
    with config_errors(), config_beside_log():
        runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
        check_test_data(runner)
    if out is not None:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=out))
    with run_errors(runner):
        runner.test()


def main() -> None:
    """Run ``lad test``."""
    args = parse_args()
    with one_line_errors(), leaving_process_group():
        if args.out is not None and not args.out.endswith((".pkl", ".pickle")):
            raise ConfigError(f"--out must end in .pkl or .pickle, got {args.out!r}.")
        if "://" not in args.checkpoint and not Path(args.checkpoint).is_file():
            raise CheckpointError(f"there is no checkpoint {args.checkpoint!r}.")
        with config_errors():
            cfg = student_only(read_config(args))
            cfg.load_from = args.checkpoint
            # A config from the work_dir of a resumed run has resume=True.
            cfg.resume = False
            verify_checkpoints(cfg)
            check_settings(cfg)
            if args.show or args.show_dir:
                trigger_visualization_hook(cfg, args)
            if args.tta:
                with_tta(cfg)
        test(cfg, args.out)
