"""Gradients of an accumulation that a checkpoint interrupts."""

from __future__ import annotations

from typing import Any

from lad.engine.model import detector_of

import torch
from mmengine.dist import all_reduce, all_reduce_params, get_world_size
from mmengine.runner import Runner
from torch import Tensor

#: Key of the gradients in a checkpoint: ``dict(counts=N, gradients={NAME: GRADIENT})``.
ACCUMULATED = "accumulated_gradients"


def is_accumulating(runner: Runner) -> bool:
    """Whether iterations since the optimizer's last step have left gradients that its next step will use."""
    wrapper = runner.optim_wrapper
    # Runners with several optimizers step each of them in their own way.
    counts = getattr(wrapper, "_accumulative_counts", 1)
    return counts > 1 and not wrapper.should_update()


def average_accumulated(runner: Runner) -> None:
    """Average the accumulated gradients of all ranks, in place; all ranks must call it before a checkpoint is written.

    DistributedDataParallel does not synchronise them before the last iteration of an accumulation, in which it averages
    the sums. The average of the averages is the same, and one checkpoint can hold it for all ranks.
    """
    if get_world_size() == 1 or not is_accumulating(runner):
        return
    parameters = [parameter for parameter in runner.model.parameters() if parameter.requires_grad]
    if not parameters:
        return
    # A rank without a gradient that another has must take part, or all would wait for it.
    has_gradient = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
    has_gradient = has_gradient.to(parameters[0].device)
    all_reduce(has_gradient, op="max")
    gradients = []
    for parameter, is_anywhere in zip(parameters, has_gradient.tolist(), strict=True):
        if is_anywhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    if gradients:
        all_reduce_params(gradients, op="mean")


def accumulated_gradients(runner: Runner) -> dict[str, Any] | None:
    """What a checkpoint must hold to go on with the accumulation; None between two accumulations."""
    if not is_accumulating(runner):
        return None
    gradients = {
        name: parameter.grad.detach().cpu()
        for name, parameter in detector_of(runner).named_parameters()
        if parameter.grad is not None
    }
    return dict(counts=runner.optim_wrapper._accumulative_counts, gradients=gradients) if gradients else None


def restore_accumulated(runner: Runner, gradients: dict[str, Tensor]) -> None:
    """Give the parameters of the detector the gradients that a checkpoint held."""
    for name, parameter in detector_of(runner).named_parameters():
        if name in gradients:
            parameter.grad = gradients[name].to(parameter.device, parameter.dtype)
