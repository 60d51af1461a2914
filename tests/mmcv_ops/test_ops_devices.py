from __future__ import annotations

import lad  # noqa: F401  puts the stand-in in place, before mmcv.ops asks for it

# isort: split

from lad.mmcv_ops.kernels import KERNELS

import pytest
import torch

# On the meta device there are no values: a tensor made on the CPU meets others of another device, and
# whatever would wait for a GPU to hand over a number fails.
META = torch.device("meta")


def empty(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device=META)


# Larger than the output, as DyHead's.
OFFSET_AND_MASK = empty(2, 18, 8, 8), empty(2, 9, 8, 8)

CALLS = {
    "bbox_overlaps": (
        [empty(3, 4), empty(5, 4), empty(3, 5)],
        {"mode": 0, "aligned": False, "offset": 0},
    ),
    "roi_align_forward": (
        [empty(2, 3, 8, 8), empty(4, 5), empty(4, 3, 2, 2), empty(0), empty(0)],
        {"aligned_height": 2, "aligned_width": 2, "spatial_scale": 0.5, "sampling_ratio": 2, "pool_mode": 1}
        | {"aligned": True},
    ),
    "roi_pool_backward": (
        [empty(4, 3, 2, 2), empty(4, 5), empty(4, 3, 2, 2, dtype=torch.int), empty(2, 3, 8, 8)],
        {"pooled_height": 2, "pooled_width": 2, "spatial_scale": 0.5},
    ),
    "sigmoid_focal_loss_forward": (
        [empty(6, 4), empty(6, dtype=torch.long), empty(4), empty(6, 4)],
        {"gamma": 2.0, "alpha": 0.25},
    ),
    "sigmoid_focal_loss_backward": (
        [empty(6, 4), empty(6, dtype=torch.long), empty(4), empty(6, 4)],
        {"gamma": 2.0, "alpha": 0.25},
    ),
    "softmax_focal_loss_forward": (
        [empty(6, 4), empty(6, dtype=torch.long), empty(4), empty(6)],
        {"gamma": 2.0, "alpha": 0.25},
    ),
    "softmax_focal_loss_backward": (
        [empty(6, 4), empty(6, dtype=torch.long), empty(4), empty(6), empty(6, 4)],
        {"gamma": 2.0, "alpha": 0.25},
    ),
    "carafe_naive_forward": (
        [empty(2, 4, 3, 4), empty(2, 18, 6, 8), empty(2, 4, 6, 8)],
        {"kernel_size": 3, "group_size": 2, "scale_factor": 2},
    ),
    "carafe_naive_backward": (
        [empty(2, 4, 6, 8), empty(2, 4, 3, 4), empty(2, 18, 6, 8), empty(2, 4, 3, 4), empty(2, 18, 6, 8)],
        {"kernel_size": 3, "group_size": 2, "scale_factor": 2},
    ),
    "masked_im2col_forward": (
        [empty(1, 3, 6, 7), empty(5, dtype=torch.long), empty(5, dtype=torch.long), empty(27, 5)],
        {"kernel_h": 3, "kernel_w": 3, "pad_h": 1, "pad_w": 1},
    ),
    "masked_col2im_forward": (
        [empty(4, 5), empty(5, dtype=torch.long), empty(5, dtype=torch.long), empty(1, 4, 6, 7)],
        {"height": 6, "width": 7, "channels": 4},
    ),
    "modulated_deform_conv_backward": (
        [
            *(empty(2, 4, 6, 7), empty(6, 4, 3, 3), empty(6), empty(0), *OFFSET_AND_MASK, empty(0)),
            *(empty(2, 4, 6, 7), empty(6, 4, 3, 3), empty(6), *OFFSET_AND_MASK, empty(2, 6, 6, 7)),
        ],
        {f"{name}_{axis}": n for name, n in (("kernel", 3), ("stride", 1), ("pad", 1)) for axis in "hw"}
        | {"dilation_h": 1, "dilation_w": 1, "group": 1, "deformable_group": 1, "with_bias": True},
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_stays_on_its_device_without_waiting_for_it(name):
    tensors, options = CALLS[name]
    KERNELS[name](*tensors, **options)
