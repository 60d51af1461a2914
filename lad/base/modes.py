"""Temporarily set modules to eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Temporarily set every module of some models to eval mode.

    Only the flags are set: ``train`` and ``eval`` of some modules do more (freezing stages).
    """
    flags = {module: module.training for model in models for module in model.modules()}
    try:
        for module in flags:
            module.training = False
        yield
    finally:
        for module, training in flags.items():
            module.training = training
