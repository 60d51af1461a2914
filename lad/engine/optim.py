"""Optimizer wrapper for mixed precision without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """bfloat16 autocast on any device, without loss scaling.

    MMEngine's ``AmpOptimWrapper`` refuses to be built without an accelerator. bfloat16 has float32's range,
    so gradients need no scaling. Parameters, gradients and the optimizer's state stay float32.
    """

    @contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        """Run the forward pass of ``model`` under autocast on its own device."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield
