from __future__ import annotations

import lad  # noqa: F401  provides mmcv._ext, which mmcv.ops loads when it is imported

# isort: split

from itertools import product

import numpy as np
import pytest
import torch
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d, deform_conv2d, modulated_deform_conv2d
from torch.autograd import gradcheck

# stride, padding, dilation, groups, deform groups
GEOMETRIES = [
    (1, 1, 1, 1, 1),
    (2, 1, 1, 2, 1),
    ((2, 1), (0, 2), (1, 2), 1, 2),
    (1, 2, 2, 2, 4),
]


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def random(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def output_size(size, kernel, stride, padding, dilation):
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, pair(stride), pair(padding), pair(dilation), strict=True)
    )


def tensors(stride, padding, dilation, groups, deform_groups, kernel=(3, 3), size=(6, 7), excess=(0, 0)):
    """Input, offset, mask and weight; offsets and masks are larger than the output by ``excess``."""
    h_out, w_out = output_size(size, kernel, stride, padding, dilation)
    cells = deform_groups * kernel[0] * kernel[1]
    larger = (h_out + excess[0], w_out + excess[1])
    return (
        random(2, 4, *size, seed=1),
        random(2, 2 * cells, *larger, seed=2, scale=1.3),
        torch.rand(2, cells, *larger, generator=torch.Generator().manual_seed(3), dtype=torch.float64),
        random(6, 4 // groups, *kernel, seed=4),
    )


def sample(plane, y, x):
    """Value at (y, x) with zeros outside, and its slopes; all zero from one pixel outside on."""
    height, width = plane.shape
    if not (-1 < y < height and -1 < x < width):
        return 0.0, (0.0, 0.0)
    top, left = int(np.floor(y)), int(np.floor(x))
    corner = {
        (i, j): plane[top + i, left + j] if 0 <= top + i < height and 0 <= left + j < width else 0.0
        for i, j in product((0, 1), repeat=2)
    }
    dy, dx = y - top, x - left
    upper = (1 - dx) * corner[0, 0] + dx * corner[0, 1]
    lower = (1 - dx) * corner[1, 0] + dx * corner[1, 1]
    slope_x = (1 - dy) * (corner[0, 1] - corner[0, 0]) + dy * (corner[1, 1] - corner[1, 0])
    return (1 - dy) * upper + dy * lower, (lower - upper, slope_x)


def reference(x, offset, mask, weight, geometry, grad_output=None):
    """Output, and the offsets' gradient; each sample's offsets and masks are read as flat memory."""
    stride, padding, dilation, groups, deform_groups = geometry
    x, weight = x.numpy(), weight.numpy()
    batch, channels, *size = x.shape
    out_channels, group_channels, kernel_h, kernel_w = weight.shape
    h_out, w_out = output_size(size, (kernel_h, kernel_w), stride, padding, dilation)
    output = np.zeros((batch, out_channels, h_out, w_out))
    gradient = np.zeros((batch, offset[0].numel()))
    for b, h, w, c, i, j in np.ndindex(batch, h_out, w_out, channels, kernel_h, kernel_w):
        flat_offset, flat_mask = offset[b].flatten(), mask[b].flatten()
        cell = (c // (channels // deform_groups)) * kernel_h * kernel_w + i * kernel_w + j
        at = [((2 * cell + axis) * h_out + h) * w_out + w for axis in (0, 1)]
        y_place = h * pair(stride)[0] - pair(padding)[0] + i * pair(dilation)[0] + float(flat_offset[at[0]])
        x_place = w * pair(stride)[1] - pair(padding)[1] + j * pair(dilation)[1] + float(flat_offset[at[1]])
        value, slopes = sample(x[b, c], y_place, x_place)
        modulation = float(flat_mask[(cell * h_out + h) * w_out + w])
        group = c // group_channels
        outputs = slice(group * out_channels // groups, (group + 1) * out_channels // groups)
        taps = weight[outputs, c % group_channels, i, j]
        output[b, outputs, h, w] += taps * value * modulation
        if grad_output is not None:
            for axis in (0, 1):
                received = (taps * grad_output[b, outputs, h, w].numpy()).sum()
                gradient[b, at[axis]] += received * slopes[axis] * modulation
    return output, gradient.reshape(offset.shape)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_deform_conv_follows_its_definition(geometry):
    x, offset, mask, weight = tensors(*geometry)
    layer = DeformConv2d(4, 6, 3, *geometry[:3], groups=geometry[3], deform_groups=geometry[4]).double()
    layer.weight.data = weight
    expected, _ = reference(x, offset, torch.ones_like(mask), weight, geometry)
    np.testing.assert_allclose(layer(x, offset).detach().numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_modulated_deform_conv_follows_its_definition(geometry, bias):
    x, offset, mask, weight = tensors(*geometry)
    layer = ModulatedDeformConv2d(
        4, 6, 3, *geometry[:3], groups=geometry[3], deform_groups=geometry[4], bias=bias
    ).double()
    layer.weight.data = weight
    expected, _ = reference(x, offset, mask, weight, geometry)
    if bias:
        layer.bias.data = random(6)
        expected += layer.bias.detach().numpy()[:, None, None]
    np.testing.assert_allclose(layer(x, offset, mask).detach().numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("deform_groups", [1, 2])
@pytest.mark.parametrize("excess", [(3, 4), (0, 2), (5, 0)])
def test_larger_offsets_are_read_as_flat_memory(excess, deform_groups):
    geometry = (1, 1, 1, 1, deform_groups)
    x, offset, mask, weight = tensors(*geometry, excess=excess)
    grad_output = random(2, 6, 6, 7, seed=9)
    offset.requires_grad_()
    output = modulated_deform_conv2d(x, offset, mask, weight, None, *geometry)
    output.backward(grad_output)
    expected, gradient = reference(x, offset.detach(), mask, weight, geometry, grad_output)
    np.testing.assert_allclose(output.detach().numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(offset.grad.numpy(), gradient, atol=1e-10)


def test_offsets_cut_from_a_larger_tensor():
    # DyHead slices offsets and mask out of one convolution's output.
    geometry = (2, 1, 1, 1, 1)
    x, *_, weight = tensors(*geometry)
    offset_and_mask = random(2, 27, 6, 7, seed=5)
    offset, mask = offset_and_mask[:, :18], offset_and_mask[:, 18:]
    output = modulated_deform_conv2d(x, offset, mask, weight, None, *geometry)
    expected, _ = reference(x, offset, mask, weight, geometry)
    np.testing.assert_allclose(output.numpy(), expected, atol=1e-10)


def test_offsets_smaller_than_the_output_are_refused():
    x, offset, mask, weight = tensors(1, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="modulated_deform_conv reads 18 x 6 x 7"):
        modulated_deform_conv2d(x, offset[..., :-1], mask, weight, None, 1, 1)
    with pytest.raises(RuntimeError):
        deform_conv2d(x, offset[..., :-1], weight, 1, 1)


@pytest.mark.parametrize("modulated", [True, False])
def test_samples_exactly_one_pixel_outside_send_no_gradient(modulated):
    # Zero offsets, as layers start with: padding puts the border's samples at -1 and at the size.
    geometry = (1, 1, 1, 1, 1)
    x, offset, mask, weight = tensors(*geometry)
    offset = torch.zeros_like(offset, requires_grad=True)
    grad_output = random(2, 6, 6, 7, seed=9)
    if modulated:
        output = modulated_deform_conv2d(x, offset, mask, weight, None, *geometry)
    else:
        mask = torch.ones_like(mask)
        output = deform_conv2d(x, offset, weight, *geometry)
    output.backward(grad_output)
    expected, gradient = reference(x, offset.detach(), mask, weight, geometry, grad_output)
    np.testing.assert_allclose(output.detach().numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(offset.grad.numpy(), gradient, atol=1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_deform_conv_gradients(geometry):
    x, offset, _, weight = (t.requires_grad_() for t in tensors(*geometry, size=(4, 5)))
    assert gradcheck(
        lambda x, offset, weight: deform_conv2d(x, offset, weight, *geometry),
        (x, offset, weight),
        fast_mode=True,
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_modulated_deform_conv_gradients(geometry, bias):
    inputs = [*tensors(*geometry, size=(4, 5)), random(6) if bias else None]
    inputs = [t if t is None else t.requires_grad_() for t in inputs]
    assert gradcheck(lambda *t: modulated_deform_conv2d(*t, *geometry), inputs, fast_mode=True)


def test_gradients_with_larger_offsets():
    inputs = [*tensors(1, 1, 1, 1, 1, size=(3, 4), excess=(2, 1)), random(6)]
    inputs = [t.requires_grad_() for t in inputs]
    assert gradcheck(lambda *t: modulated_deform_conv2d(*t, 1, 1), inputs, fast_mode=True)


def test_weight_gradient_alone():
    x, offset, _, weight = tensors(1, 1, 1, 1, 1)
    weight.requires_grad_()
    deform_conv2d(x, offset, weight, 1, 1).sum().backward()
    complete = [t.detach().clone().requires_grad_() for t in (x, offset, weight)]
    deform_conv2d(*complete, 1, 1).sum().backward()
    torch.testing.assert_close(weight.grad, complete[2].grad)


def test_input_smaller_than_the_kernel_is_padded():
    layer = DeformConv2d(1, 1, 3, padding=1).double()
    x, offset = random(1, 1, 2, 2), random(1, 18, 2, 2, seed=1)
    padded, padded_offset = (torch.nn.functional.pad(t, (0, 1, 0, 1)) for t in (x, offset))
    mask = torch.ones(1, 9, 3, 3)
    expected, _ = reference(padded, padded_offset, mask, layer.weight.detach(), (1, 1, 1, 1, 1))
    np.testing.assert_allclose(layer(x, offset).detach().numpy(), expected[..., :2, :2], atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_offsets_decide_the_dtype(dtype):
    x, offset, mask, weight = (t.to(dtype) for t in tensors(1, 1, 1, 1, 1))
    weight = weight.float().requires_grad_()
    output = modulated_deform_conv2d(x.float(), offset, mask, weight, None, 1, 1)
    output.sum().backward()
    assert output.dtype == dtype
    precise = [t.detach().float() for t in (x, offset, mask, weight.to(dtype))]
    exact = modulated_deform_conv2d(*precise[:3], precise[3].requires_grad_(), None, 1, 1)
    exact.sum().backward()
    torch.testing.assert_close(output, exact.to(dtype))
    torch.testing.assert_close(weight.grad, precise[3].grad.to(dtype).float())
    plain = deform_conv2d(x, offset, weight, 1, 1)
    assert plain.dtype == dtype
    torch.testing.assert_close(plain, deform_conv2d(*precise[:2], precise[3], 1, 1).to(dtype))


@pytest.mark.parametrize("modulated", [False, True])
def test_samples_at_offsets_that_are_nan_are_zero_and_end_no_process(modulated):
    """As in mmcv's kernels; torchvision's read memory at an index made of the NaN."""
    torch.manual_seed(0)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    offset = torch.zeros(1, 18, 8, 8)
    offset[0, :, 4, 4] = torch.nan
    offset.requires_grad_()
    if modulated:
        module = ModulatedDeformConv2d(4, 5, 3, padding=1, bias=False)
        found = module(x, offset, torch.ones(1, 9, 8, 8))
    else:
        module = DeformConv2d(4, 5, 3, padding=1)
        found = module(x, offset)
    expected = torch.nn.functional.conv2d(x, module.weight, padding=1)
    expected[0, :, 4, 4] = 0
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found.square().sum(), (x, module.weight), retain_graph=True)
    wanted = torch.autograd.grad(expected.square().sum(), (x, module.weight))
    for own, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
    assert not torch.autograd.grad(found.sum(), offset)[0][0, :, 4, 4].any()
