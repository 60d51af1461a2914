"""The detector of a run."""

from __future__ import annotations

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn


def detector_of(runner: Runner) -> nn.Module:
    """The model that a run trains, without what wraps it for several processes."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
