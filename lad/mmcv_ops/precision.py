"""Conversion of tensors to what torchvision's kernels compute with: float32, and places that are numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Convert float16 and bfloat16 tensors to float32; others are returned unchanged.

    Neither torchvision nor torch has every kernel in half precision on every device, and coordinates of
    boxes lose whole pixels in it. Results are copied into the tensors mmcv allocated, which casts back.
    """
    halves = (torch.float16, torch.bfloat16)
    return tuple(tensor.float() if tensor.dtype in halves else tensor for tensor in tensors)


#: A coordinate outside of every map.
FAR = -1e6


def somewhere(places: Tensor) -> Tensor:
    """Move places that are NaN far outside of the map, where mmcv's kernels, too, read zeros.

    To torchvision's a NaN lies inside, and on a CPU they read memory at an index that is made of it.
    """
    return torch.where(places.isnan(), FAR, places)


def leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Detach tensors to new leaves of an autograd graph, in float32 or better."""
    return tuple(tensor.detach().requires_grad_() for tensor in upcast(*tensors))
