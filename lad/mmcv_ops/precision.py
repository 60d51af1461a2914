"""Half-precision tensors are computed in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Float16 and bfloat16 tensors as float32; all others as they are.

    Neither torchvision nor torch has every kernel in half precision on every device, and coordinates of
    boxes lose whole pixels in it. Results are copied into the tensors mmcv allocated, which casts back.
    """
    halves = (torch.float16, torch.bfloat16)
    return tuple(tensor.float() if tensor.dtype in halves else tensor for tensor in tensors)


def leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The same values, in float32 or better, as fresh leaves of an autograd graph."""
    return tuple(tensor.detach().requires_grad_() for tensor in upcast(*tensors))
