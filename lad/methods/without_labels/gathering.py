"""Embeddings of all processes of a training, with gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dist import all_gather, all_reduce, get_rank, get_world_size
from torch import Tensor


@dataclass(frozen=True)
class Gathered:
    """Embeddings of two views of the images of all processes.

    Attributes:
        views: (2, M, D), in the order of the ranks.
        start: Index of this process's first image.
    """

    views: Tensor
    start: int


class _GatherWithGradient(torch.autograd.Function):
    """Concatenation over the processes in dimension -2; torch has one, in a deprecated and in a private module."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor) -> Tensor:
        return torch.cat(all_gather(embeddings.contiguous()), dim=-2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # The losses of all processes depend on this process's embeddings.
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        all_reduce(gradient, op="sum")
        return gradient.chunk(get_world_size(), dim=-2)[get_rank()]


def gather_embeddings(embeddings: Tensor) -> Tensor:
    """Gather embeddings (..., N, D) from all processes, in the order of their ranks; gradients as for views."""
    return embeddings if get_world_size() == 1 else _GatherWithGradient.apply(embeddings)


def gather_views(first: Tensor, second: Tensor) -> Gathered:
    """Gather the embeddings of two views from all processes; all must have as many images.

    The gradient of each process's loss flows back to the process that an embedding is from, so that the mean over the
    processes, which DistributedDataParallel takes, is the gradient of the mean of their losses.

    Args:
        first: (N, D) of this process.
        second: (N, D) likewise.
    """
    return Gathered(gather_embeddings(torch.stack([first, second])), get_rank() * len(first))
