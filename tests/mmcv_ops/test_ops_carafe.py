from __future__ import annotations

import lad  # noqa: F401  provides mmcv._ext, which mmcv.ops loads when it is imported

# isort: split

from lad.mmcv_ops.kernels import KERNELS

import numpy as np
import pytest
import torch
from mmcv.ops import CARAFEPack, carafe, carafe_naive
from torch.autograd import gradcheck

# kernel size, groups, scale factor
SHAPES = [(3, 1, 2), (5, 2, 2), (1, 4, 3), (3, 2, 1)]


def tensors(kernel, groups, scale, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 3, 4, generator=generator, dtype=torch.float64)
    masks = torch.rand(2, groups * kernel**2, 3 * scale, 4 * scale, generator=generator, dtype=torch.float64)
    return features.to(dtype), masks.to(dtype)


def reference(features, masks, kernel, groups, scale):
    batch, channels, height, width = features.shape
    output = np.zeros((batch, channels, height * scale, width * scale))
    for n, c, y, x in np.ndindex(output.shape):
        for i, j in np.ndindex(kernel, kernel):
            row, column = y // scale + i - kernel // 2, x // scale + j - kernel // 2
            if 0 <= row < height and 0 <= column < width:
                group = c // (channels // groups)
                weight = masks[n, (group * kernel + i) * kernel + j, y, x]
                output[n, c, y, x] += features[n, c, row, column] * weight
    return output


@pytest.mark.parametrize("operator", [carafe, carafe_naive])
@pytest.mark.parametrize("shape", SHAPES)
def test_reassembles_windows(operator, shape):
    features, masks = tensors(*shape)
    expected = reference(features.numpy(), masks.numpy(), *shape)
    np.testing.assert_allclose(operator(features, masks, *shape).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients(shape):
    features, masks = (t.requires_grad_() for t in tensors(*shape))
    assert gradcheck(lambda f, m: carafe(f, m, *shape), (features, masks), fast_mode=True)


def test_naive_gradients_equal_the_fast_ones():
    # mmcv's Python side lets the naive backward run on CUDA only; the kernel itself is device neutral.
    kernel, groups, scale = shape = (3, 2, 2)
    features, masks = (t.requires_grad_() for t in tensors(*shape))
    output = carafe(features, masks, *shape)
    grad_output = torch.rand(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.autograd.grad(output, (features, masks), grad_output)
    gradients = torch.zeros_like(features), torch.zeros_like(masks)
    KERNELS["carafe_naive_backward"](
        grad_output, features, masks, *gradients, kernel_size=kernel, group_size=groups, scale_factor=scale
    )
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(dtype):
    features, masks = (t.requires_grad_() for t in tensors(5, 2, 2, dtype))
    output = carafe(features, masks, 5, 2, 2)
    output.sum().backward()
    precise = [t.detach().float().requires_grad_() for t in (features, masks)]
    expected = carafe(*precise, 5, 2, 2)
    expected.sum().backward()
    torch.testing.assert_close(output, expected.to(dtype))
    torch.testing.assert_close(features.grad, precise[0].grad.to(dtype))
    torch.testing.assert_close(masks.grad, precise[1].grad.to(dtype))


def test_pack_reassembles_with_its_predicted_windows():
    torch.manual_seed(0)
    layer = CARAFEPack(8, scale_factor=2, compressed_channels=4).double()
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    windows = layer.content_encoder(layer.channel_compressor(x))
    windows = torch.nn.functional.pixel_shuffle(windows, 2).softmax(dim=1).detach()
    kernel = layer.up_kernel
    np.testing.assert_allclose(
        layer(x).detach(), reference(x.numpy(), windows.numpy(), kernel, 1, 2), atol=1e-12
    )
    assert gradcheck(layer, x.requires_grad_(), fast_mode=True)
