"""RoIAlign with average pooling, by torchvision's kernel, which follows the same definition as mmcv's."""

from __future__ import annotations

from lad.mmcv_ops.missing import needs_compiled_mmcv
from lad.mmcv_ops.precision import FAR, upcast

import torch
from torch import Tensor
from torchvision.ops import roi_align

AVERAGE = 1


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Average of bilinear samples in every bin of every region.

    Args:
        input: Features ``(N, C, H, W)``.
        rois: ``(R, 5)`` as ``(image index, x1, y1, x2, y2)`` in pixels of the image.
        output: ``(R, C, aligned_height, aligned_width)``, filled in place.
        argmax_y, argmax_x: For max pooling only, unused.
        aligned_height, aligned_width: Number of bins.
        spatial_scale: Feature pixels per image pixel.
        sampling_ratio: Samples per bin and axis; 0 takes one per feature pixel, rounded up.
        pool_mode: 1; maximum pooling (0) is not covered.
        aligned: Whether pixel centres lie at half-integers.
    """
    _check(pool_mode)
    features, rois = upcast(input, _regions(rois))
    size = (aligned_height, aligned_width)
    pooled = roi_align(features, rois.to(features.dtype), size, spatial_scale, sampling_ratio, aligned)
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient with respect to the features, filled into ``grad_input``; arguments as in the forward.

    Averaging is linear, so its gradient is the same at any features: zeros replace those that mmcv does not
    keep. Going through torchvision's public function instead of its private backward kernel costs one
    forward and keeps its deterministic path on CUDA.
    """
    _check(pool_mode)
    grad, rois, like = upcast(grad_output, _regions(rois), grad_input)
    with torch.enable_grad():
        features = torch.zeros_like(like).requires_grad_()
        size = (aligned_height, aligned_width)
        pooled = roi_align(features, rois.to(features.dtype), size, spatial_scale, sampling_ratio, aligned)
    grad_input.copy_(torch.autograd.grad(pooled, features, grad)[0])


def _regions(rois: Tensor) -> Tensor:
    """Regions ``(R, 5)``, those that are not finite as points far outside, where zeros are read.

    torchvision's kernel would read memory at an index that is made of a NaN.
    """
    corners = torch.where(rois[:, 1:].isfinite().all(1, keepdim=True), rois[:, 1:], FAR)
    return torch.cat([rois[:, :1], corners], dim=1)


def _check(pool_mode: int) -> None:
    if pool_mode != AVERAGE:
        raise needs_compiled_mmcv("'roi_align' with pool_mode='max'")
