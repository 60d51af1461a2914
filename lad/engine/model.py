"""Access to the detector that a runner trains."""

from __future__ import annotations

from mmdet.models.detectors import BaseDetector
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner


def detector_of(runner: Runner) -> BaseDetector:
    """The model of a runner, without its wrapper for distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def loaded_model(runner: Runner) -> BaseDetector:
    """The model that a runner loads checkpoints into: without test-time augmentation's wrapper either."""
    model = detector_of(runner)
    return model.module if isinstance(model, BaseTTAModel) else model
