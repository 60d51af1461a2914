"""Multi-scale deformable attention, by mmcv's own pure-PyTorch implementation.

mmcv uses it itself on the CPU. On CUDA it calls the kernels, which read the same samples: bilinear,
pixel centres at half-integers, zeros outside.
"""

from __future__ import annotations

from lad.mmcv_ops.precision import leaves, upcast

import torch
from torch import Tensor


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Weighted sums of sampled values, ``(B, queries, heads * channels)``.

    Args:
        value: ``(B, sum of H * W, heads, channels)``, the levels one after the other.
        value_spatial_shapes: ``(levels, 2)`` as ``(H, W)``.
        value_level_start_index: ``(levels,)``; follows from the shapes.
        sampling_locations: ``(B, queries, heads, levels, points, 2)`` as (x, y), 0 to 1 across the level.
        attention_weights: ``(B, queries, heads, levels, points)``.
        im2col_step: mmcv's batch per kernel launch.
    """
    tensors = upcast(value, sampling_locations, attention_weights)
    return _attend(value_spatial_shapes, *tensors).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Fill the three gradients, by autograd on a recomputed forward; arguments as in the forward."""
    inputs = leaves(value, sampling_locations, attention_weights)
    (grad,) = upcast(grad_output)
    with torch.enable_grad():
        output = _attend(value_spatial_shapes, *inputs)
    gradients = torch.autograd.grad(output, inputs, grad)
    destinations = (grad_value, grad_sampling_loc, grad_attn_weight)
    for destination, gradient in zip(destinations, gradients, strict=True):
        destination.copy_(gradient)


def _attend(shapes: Tensor, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    # Importing mmcv.ops loads the extension, so it cannot be imported before the extension exists.
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    # As a list the shapes are copied from the device once, not once per use.
    return multi_scale_deformable_attn_pytorch(value, shapes.tolist(), locations, weights)
