"""Training flags of modules, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Let every module of the models say that it is not training, and put the flags back.

    By hand: what ``train`` and ``eval`` do besides (freezing stages, say) is not to be done here.
    """
    flags = {module: module.training for model in models for module in model.modules()}
    try:
        for module in flags:
            module.training = False
        yield
    finally:
        for module, training in flags.items():
            module.training = training
