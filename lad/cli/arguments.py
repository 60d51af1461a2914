"""Command-line arguments that the tools share, and preparation of their configs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lad.base.config import load_config, merge_options
from lad.cli.checks import bad_data_policy, check_completeness, check_dataset_files
from lad.cli.config_settings import check_settings
from lad.cli.config_types import check_types
from lad.cli.options import add_config_options
from lad.datasets.bad_images import check_image_loading
from lad.detectors.configs import describes_detectors
from lad.engine.defaults import resume_request, survive_interruption
from lad.errors import ConfigError

from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.device import get_device

#: What a launcher's processes find in their environment, and what starts them.
LAUNCHERS = dict(
    pytorch=("RANK", "torchrun"),
    slurm=("SLURM_PROCID", "srun"),
    mpi=("OMPI_COMM_WORLD_LOCAL_RANK", "mpirun"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every tool with a config takes, under MMDetection's names."""
    parser.add_argument("config", help="config file, or PACKAGE::PATH of an installed package")
    parser.add_argument("--work-dir", help="folder for logs and checkpoints (default: work_dirs/CONFIG_NAME)")
    add_config_options(parser)
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)


def read_config(args: argparse.Namespace) -> Config:
    """Read the config that the arguments of :func:`add_arguments` name, and apply their overrides.

    Raises:
        ConfigError: there is no such config, the options do not fit it, or nothing has launched the process.
    """
    _check_launcher(args.launcher)
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    setup_cache_size_limit_of_dynamo()
    cfg = load_config(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        merge_options(cfg, args.cfg_options, "--cfg-options")
    check_types(cfg)
    if describes_detectors(cfg.get("model")):
        # MMEngine would put one that a base config has beside its model (SSD, YOLOv3) in the place of the student's, in
        # training alone: the plain config that is tested has the student's. On purpose it is model.data_preprocessor.
        cfg._cfg_dict.pop("data_preprocessor", None)
    # The command line comes first, then the config, then the config's name.
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / Path(args.config).stem)
    return cfg


def _check_launcher(launcher: str) -> None:
    if launcher in LAUNCHERS and LAUNCHERS[launcher][0] not in os.environ:
        variable, command = LAUNCHERS[launcher]
        raise ConfigError(
            f"--launcher {launcher} is for processes that {command} starts, and {variable} is not set: start with "
            f"{command}, or leave out --launcher."
        )


def prepare_training(
    cfg: Config, *, amp: bool, auto_scale_lr: bool, resume: str | None, resume_schedule: str | None = None
) -> Config:
    """Apply the options of ``tools/train.py``, in place.

    Args:
        cfg: The training config.
        amp: Mixed precision: float16 with loss scaling on an accelerator, bfloat16 on a CPU.
        auto_scale_lr: Scale the learning rate with the batch size.
        resume: ``'auto'`` for the last checkpoint of the work_dir, a checkpoint path, or None.
        resume_schedule: Whose optimizer settings and schedulers a resumed run has: ``'checkpoint'`` or ``'config'``;
            None for what the config's :class:`lad.engine.hooks.ResumeHook` says.

    Raises:
        ConfigError: the config lacks what an option or the training needs.
    """
    check_types(cfg)
    for key in ("model", "train_dataloader", "train_cfg", "optim_wrapper"):
        if cfg.get(key) is None:
            raise ConfigError(f"the config has no {key!r}: it describes no training.")
    check_completeness(cfg)
    check_settings(cfg)
    if amp:
        if get_device() == "cpu":
            cfg.optim_wrapper.type = "BFloat16OptimWrapper"
        else:
            cfg.optim_wrapper.type = "AmpOptimWrapper"
            cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    if auto_scale_lr:
        if not {"enable", "base_batch_size"} <= set(cfg.get("auto_scale_lr") or {}):
            raise ConfigError(
                "--auto-scale-lr needs auto_scale_lr=dict(enable=False, base_batch_size=16) in the config."
            )
        cfg.auto_scale_lr.enable = True
    if resume_schedule is not None and resume is None and not cfg.get("resume"):
        raise ConfigError("--resume-schedule says how a resumed run goes on: give --resume too.")
    resume = resume_request(cfg.work_dir, resume)
    if resume is not None:
        cfg.resume = True
        cfg.load_from = None if resume == "auto" else resume
    survive_interruption(cfg)
    if resume_schedule is not None:
        if "resume" not in cfg.default_hooks:
            raise ConfigError("--resume-schedule needs default_hooks.resume, which the config sets to None.")
        cfg.default_hooks.resume.schedule = resume_schedule
    images = bad_data_policy(cfg)["images"]
    check_image_loading(cfg.train_dataloader, images)
    # Hooks that exchange the pipeline for the last epochs.
    check_image_loading(cfg.get("custom_hooks"), images)
    # No other image can be evaluated instead.
    check_image_loading(cfg.get("val_dataloader"), "stop")
    check_dataset_files(cfg)
    return cfg


def learning_rate_mismatch(cfg: Config, world_size: int) -> str | None:
    """Warning for a learning rate that was chosen for another number of images per step; None if it fits.

    It counts as fitting if the config has no ``base_batch_size`` or scales the learning rate itself.

    Args:
        cfg: The training config.
        world_size: Number of processes.
    """
    scaling = cfg.get("auto_scale_lr") or {}
    base, batch_size = scaling.get("base_batch_size"), cfg.train_dataloader.get("batch_size")
    if scaling.get("enable") or base is None or batch_size is None:
        return None
    accumulated = cfg.optim_wrapper.get("accumulative_counts", 1)
    images = batch_size * world_size * accumulated
    if images == base:
        return None
    factor = f"{images / base:.4g}"
    # MMEngine's scaling does not count accumulated steps.
    remedy = (
        f"--auto-scale-lr multiplies it by {factor}"
        if accumulated == 1
        else f"multiply it by {factor} (--auto-scale-lr does not count accumulated steps)"
    )
    return (
        f"The learning rate is for {base} images a step and this run has {images}: {remedy}; "
        f"if it is meant for {images}, set auto_scale_lr.base_batch_size={images}."
    )


def log_to_tensorboard(cfg: Config) -> Config:
    """Add a TensorBoard backend to the config's visualizer, in place, unless it has one."""
    if cfg.get("visualizer") is None:
        cfg.visualizer = dict(type="DetLocalVisualizer", name="visualizer")
    backends = cfg.visualizer.get("vis_backends")
    # MMEngine's default.
    backends = [dict(type="LocalVisBackend")] if backends is None else list(backends)
    if not any(str(backend.get("type")).endswith("TensorboardVisBackend") for backend in backends):
        backends.append(dict(type="TensorboardVisBackend"))
    cfg.visualizer.vis_backends = backends
    return cfg
