"""Access to the detector that a runner trains."""

from __future__ import annotations

from mmdet.models.detectors import BaseDetector
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner


def detector_of(runner: Runner) -> BaseDetector:
    """The model of a runner, without its wrapper for distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
