"""Random numbers of one step, which depend on nothing that was drawn before."""

from __future__ import annotations

import torch
from mmengine.dist import get_rank


def step_generator(
    iteration: int, device: torch.device | str = "cpu", each_process: bool = False
) -> torch.Generator:
    """A generator for one step.

    The training loops give the default generator of every process the same seed before a step. What is drawn from it
    is the same in all of them, until one draws more than another.

    Args:
        iteration: Number of the step, for loops that seed once for all.
        device: Where numbers are drawn.
        each_process: Whether each process draws other numbers; else all draw the same.
    """
    place = iteration * 1_000_003 + (get_rank() if each_process else 0)
    return torch.Generator(device).manual_seed((torch.initial_seed() + place) % 2**63)
