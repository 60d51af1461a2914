"""Functions of one image as functions of a batch of any size, in a graph that is traced once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@torch.library.custom_op("lad::cat", mutates_args=())
def _cat(tensors: list[Tensor], dim: int) -> Tensor:
    return torch.cat(tensors, dim)


@_cat.register_fake
def _(tensors: list[Tensor], dim: int) -> Tensor:
    return torch.cat(tensors, dim)


@_cat.register_vmap
def _(info: Any, in_dims: tuple, tensors: list[Tensor], dim: int) -> tuple[Tensor, int]:
    batched = [
        tensor[None].expand(info.batch_size, *tensor.shape) if in_dim is None else tensor.movedim(in_dim, 0)
        for tensor, in_dim in zip(tensors, in_dims[0], strict=True)
    ]
    return torch.cat(batched, dim + 1 if dim >= 0 else dim), 0


class _TracedCat(TorchFunctionMode):
    """Send ``torch.cat`` through an operator whose rule for a batch is written in Python.

    torch's own rule reads the batch size as a number, which fixes it in an exported graph.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is torch.cat:
            return self._cat(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _cat(tensors: Any, dim: int = 0) -> Tensor:
        return _cat(list(tensors), dim)


def for_each_image(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Apply a function of one image's tensors to a batch; like ``torch.vmap``, but the batch size stays free.

    Args:
        function: Takes each tensor without its first dimension, and returns tensors.
        tensors: (B, ...) each.

    Returns:
        The function's tensors, with the batch as their first dimension.
    """
    with _TracedCat():
        return torch.vmap(function)(*tensors)
