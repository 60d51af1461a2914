"""Table of the implemented kernels by their names in mmcv."""

from __future__ import annotations

from collections.abc import Callable

from lad.mmcv_ops import (
    carafe,
    deform_attention,
    deform_conv,
    focal_loss,
    info,
    masked_conv,
    nms,
    overlaps,
    roi_align,
    roi_pool,
)

KERNELS: dict[str, Callable] = {
    kernel.__name__: kernel
    for kernel in (
        nms.nms,
        nms.softnms,
        nms.nms_match,
        overlaps.bbox_overlaps,
        roi_align.roi_align_forward,
        roi_align.roi_align_backward,
        roi_pool.roi_pool_forward,
        roi_pool.roi_pool_backward,
        deform_conv.deform_conv_forward,
        deform_conv.deform_conv_backward_input,
        deform_conv.deform_conv_backward_parameters,
        deform_conv.modulated_deform_conv_forward,
        deform_conv.modulated_deform_conv_backward,
        deform_attention.ms_deform_attn_forward,
        deform_attention.ms_deform_attn_backward,
        focal_loss.sigmoid_focal_loss_forward,
        focal_loss.sigmoid_focal_loss_backward,
        focal_loss.softmax_focal_loss_forward,
        focal_loss.softmax_focal_loss_backward,
        carafe.carafe_forward,
        carafe.carafe_backward,
        carafe.carafe_naive_forward,
        carafe.carafe_naive_backward,
        masked_conv.masked_im2col_forward,
        masked_conv.masked_col2im_forward,
        info.get_compiler_version,
        info.get_compiling_cuda_version,
    )
}
