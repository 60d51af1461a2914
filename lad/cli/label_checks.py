"""Checks that a training on images without labels needs none, and that its batches can be told apart."""

from __future__ import annotations

from lad.datasets.configured import datasets_of, is_labelled
from lad.detectors.networks import NetworksDetector
from lad.detectors.self_supervised import SelfSupervisedPretraining
from lad.errors import ConfigError

from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.runner import Runner
from torch import nn


def check_labels(cfg: Config, model: nn.Module) -> None:
    """Refuse ``labelled=False`` for training data where something learns from their labels.

    Args:
        cfg: Config of the training.
        model: Its model.

    Raises:
        ConfigError: names what learns from labels.
    """
    datasets = datasets_of((cfg.get("train_dataloader") or {}).get("dataset"))
    if all(is_labelled(dataset) for dataset in datasets):
        return
    if getattr(model, "student_loss", True) or not isinstance(model, NetworksDetector):
        raise ConfigError(
            "train_dataloader: a data set has labelled=False, and the detector's own loss would take every image for "
            "one without objects: learn from a teacher alone (DistillationDetector with student_loss=False), or set "
            "labelled=True."
        )


def check_views(runner: Runner, model: nn.Module) -> None:
    """Refuse a pretraining on views whose batches have a single image, and its evaluation.

    Args:
        runner: Of the training; its training loop is built.
        model: Its model; any but a :class:`SelfSupervisedPretraining` is passed over.

    Raises:
        ConfigError: names the setting.
    """
    if not isinstance(model, SelfSupervisedPretraining):
        return
    if runner.cfg.get("val_dataloader") is not None:
        raise ConfigError(
            "val_dataloader: SelfSupervisedPretraining has no heads that detect; set val_dataloader, val_cfg and "
            "val_evaluator to None."
        )
    batches, processes = runner.train_loop.dataloader.batch_sampler, get_world_size()
    size = getattr(batches, "batch_size", None)
    if not isinstance(size, int):
        return
    if size * processes < 2:
        raise ConfigError(
            "train_dataloader.batch_size is 1: an image has no other in its batch to be told from; set it to 2 or more."
        )
    inner = getattr(batches, "batches", batches)
    counted = getattr(batches, "counts_epochs", False) and not getattr(inner, "drop_last", False)
    images = len(batches.sampler) if counted else 0
    if images % size * processes == 1:
        raise ConfigError(
            f"train_dataloader: the last batch of {images} images in batches of {size} has a single one, which has no "
            "other to be told from; set drop_last=True, or another batch_size."
        )
