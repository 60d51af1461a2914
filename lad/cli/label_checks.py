"""Checks that a training on images without labels needs none."""

from __future__ import annotations

from lad.datasets.configured import datasets_of, is_labelled
from lad.detectors.inspection import bound_methods
from lad.errors import ConfigError

from mmengine.config import Config
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
    if not bound_methods(model) or getattr(model, "student_loss", True):
        raise ConfigError(
            "train_dataloader: a data set has labelled=False, and the detector's own loss would take every image for "
            "one without objects: learn from a teacher alone (DistillationDetector with student_loss=False), or set "
            "labelled=True."
        )
