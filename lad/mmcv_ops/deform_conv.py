"""Deformable convolution, plain (v1) and modulated (v2), on torchvision's ``deform_conv2d``.

Offsets are ``(B, deform_groups * kh * kw * 2, H_out, W_out)`` in pixels, y before x for every kernel cell,
and masks ``(B, deform_groups * kh * kw, H_out, W_out)``: both libraries agree on that. They differ in two
places, where this file follows mmcv:

* At a sample exactly one pixel outside the input, where zero offsets put those over the padding, mmcv's
  offset gradient is zero; torchvision takes the slope towards the inside.
* mmcv's modulated kernel accepts offsets and masks larger than the output and reads them as flat memory with
  the output's strides. DyHead relies on it.

Gradients come from autograd on a recomputed forward: torchvision's own backward kernel is private.
"""

from __future__ import annotations

from typing import NamedTuple

from lad.mmcv_ops.precision import leaves, somewhere, upcast

import torch
from torch import Tensor
from torchvision.ops import deform_conv2d


class Geometry(NamedTuple):
    """Stride, padding and dilation of a convolution, each ``(vertical, horizontal)`` in pixels."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,  # noqa: N803
    kH: int,  # noqa: N803
    dW: int,  # noqa: N803
    dH: int,  # noqa: N803
    padW: int,  # noqa: N803
    padH: int,  # noqa: N803
    dilationW: int,  # noqa: N803
    dilationH: int,  # noqa: N803
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Fill ``output`` ``(B, C_out, H_out, W_out)``; ``columns``, ``ones`` and ``im2col_step`` are mmcv's own.

    The numbers of groups follow from the shapes of ``weight`` and ``offset``.
    """
    geometry = Geometry((dH, dW), (padH, padW), (dilationH, dilationW))
    x, offset, weight = upcast(input, offset, weight)
    output.copy_(deform_conv2d(x, somewhere(offset), weight, **geometry._asdict()))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,  # noqa: N803
    kH: int,  # noqa: N803
    dW: int,  # noqa: N803
    dH: int,  # noqa: N803
    padW: int,  # noqa: N803
    padH: int,  # noqa: N803
    dilationW: int,  # noqa: N803
    dilationH: int,  # noqa: N803
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Fill ``grad_input`` and ``grad_offset``."""
    geometry = Geometry((dH, dW), (padH, padW), (dilationH, dilationW))
    x, offset = leaves(input, offset)
    weight, grad = upcast(weight, grad_output)
    with torch.enable_grad():
        moved = _fixed_outside(offset, x.shape[-2:], (kH, kW), geometry)
        output = deform_conv2d(x, moved, weight.detach(), **geometry._asdict())
    gradients = torch.autograd.grad(output, (x, offset), grad)
    for destination, gradient in zip((grad_input, grad_offset), gradients, strict=True):
        destination.copy_(gradient)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,  # noqa: N803
    kH: int,  # noqa: N803
    dW: int,  # noqa: N803
    dH: int,  # noqa: N803
    padW: int,  # noqa: N803
    padH: int,  # noqa: N803
    dilationW: int,  # noqa: N803
    dilationH: int,  # noqa: N803
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the weight's gradient to ``grad_weight``."""
    geometry = Geometry((dH, dW), (padH, padW), (dilationH, dilationW))
    x, offset, grad = upcast(input, offset, grad_output)
    # The convolution is linear in its weight: any weight has this gradient, and mmcv passes none.
    (weight,) = leaves(torch.zeros_like(grad_weight))
    with torch.enable_grad():
        output = deform_conv2d(x.detach(), somewhere(offset.detach()), weight, **geometry._asdict())
    grad_weight.add_(torch.autograd.grad(output, weight, grad)[0], alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Fill ``output`` ``(B, C_out, H_out, W_out)``; offsets and masks may be larger (see the module)."""
    geometry = Geometry((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    x, weight, bias, offset, mask = upcast(input, weight, bias, offset, mask)
    cells = deformable_group * kernel_h * kernel_w
    size = output.shape[-2:]
    convolved = deform_conv2d(
        x,
        somewhere(_read_flat(offset, 2 * cells, size)),
        weight,
        bias if with_bias else None,
        mask=_read_flat(mask, cells, size),
        **geometry._asdict(),
    )
    output.copy_(convolved)


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Fill the five gradients; the part of offsets and masks that was not read gets zeros."""
    geometry = Geometry((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    x, weight, offset, mask = leaves(input, weight, offset, mask)
    (grad,) = upcast(grad_output)
    cells = deformable_group * kernel_h * kernel_w
    size = grad.shape[-2:]
    with torch.enable_grad():
        window = _read_flat(offset, 2 * cells, size)
        moved = _fixed_outside(window, x.shape[-2:], (kernel_h, kernel_w), geometry)
        weighting = _read_flat(mask, cells, size)
        output = deform_conv2d(x, moved, weight, mask=weighting, **geometry._asdict())
    gradients = torch.autograd.grad(output, (x, weight, offset, mask), grad)
    destinations = (grad_input, grad_weight, grad_offset, grad_mask)
    for destination, gradient in zip(destinations, gradients, strict=True):
        destination.copy_(gradient)
    if with_bias:
        grad_bias.copy_(grad.sum(dim=(0, 2, 3)))


def _read_flat(tensor: Tensor, channels: int, size: torch.Size) -> Tensor:
    """Reinterpret each sample's first ``channels * h * w`` values as ``(B, channels, h, w)``."""
    if tensor.shape[1:] == (channels, *size):
        return tensor
    needed = channels * size[0] * size[1]
    flat = tensor.flatten(1)
    if flat.shape[1] < needed:
        raise ValueError(
            f"modulated_deform_conv reads {channels} x {size[0]} x {size[1]} offsets or masks per sample, "
            f"got {' x '.join(map(str, tensor.shape[1:]))}"
        )
    return flat[:, :needed].reshape(-1, channels, *size)


def _fixed_outside(
    offset: Tensor, input_size: torch.Size, kernel: tuple[int, int], geometry: Geometry
) -> Tensor:
    """Detach the offsets of samples a pixel or more outside the input; values that are numbers are unchanged."""
    cells = somewhere(offset).unflatten(1, (-1, *kernel, 2))
    inside = torch.ones((), dtype=torch.bool, device=offset.device)
    for axis in range(2):
        taps = torch.arange(kernel[axis], device=offset.device) * geometry.dilation[axis]
        starts = torch.arange(offset.shape[2 + axis], device=offset.device) * geometry.stride[axis]
        regular = taps[:, None] + starts - geometry.padding[axis]
        # (kernel, out) of this axis among (kh, kw, h_out, w_out).
        regular = regular[:, None, :, None] if axis == 0 else regular[None, :, None, :]
        place = regular + cells[:, :, :, :, axis]
        inside = inside & (place > -1) & (place < input_size[axis])
    return torch.where(inside[:, :, :, :, None], cells, cells.detach()).reshape_as(offset)
