from __future__ import annotations

import lad  # noqa: F401  provides mmcv._ext, which mmcv.ops loads when it is imported

# isort: split

import numpy as np
import pytest
import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from torch.autograd import gradcheck

SHAPES = torch.tensor([[3, 4], [2, 2]])
STARTS = torch.tensor([0, 12])


def tensors(dtype=torch.float64):
    """Values, locations (some of them outside) and weights of 2 heads, 2 levels and 3 points."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 16, 2, 3, generator=generator, dtype=torch.float64)
    locations = torch.rand(2, 5, 2, 2, 3, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(2, 5, 2, 2, 3, generator=generator, dtype=torch.float64)
    return value.to(dtype), locations.to(dtype), weights.to(dtype)


def attend(value, locations, weights):
    return MultiScaleDeformableAttnFunction.apply(value, SHAPES, STARTS, locations, weights, 64)


def reference(value, locations, weights):
    batch, _, heads, channels = value.shape
    output = np.zeros((batch, locations.shape[1], heads, channels))
    for b, q, m, level, p in np.ndindex(weights.shape):
        height, width = SHAPES[level].tolist()
        x = locations[b, q, m, level, p, 0] * width - 0.5
        y = locations[b, q, m, level, p, 1] * height - 0.5
        for row in (int(np.floor(y)), int(np.floor(y)) + 1):
            for column in (int(np.floor(x)), int(np.floor(x)) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[b, q, m, level, p]
                    output[b, q, m] += share * value[b, int(STARTS[level]) + row * width + column, m]
    return output.reshape(batch, -1, heads * channels)


def test_weighted_sums_of_bilinear_samples():
    value, locations, weights = tensors()
    expected = reference(value.numpy(), locations.numpy(), weights.numpy())
    np.testing.assert_allclose(attend(value, locations, weights).numpy(), expected, atol=1e-12)


def test_gradients():
    assert gradcheck(attend, [t.requires_grad_() for t in tensors()], fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    value, locations, weights = (t.requires_grad_() for t in tensors(dtype))
    output = attend(value, locations, weights)
    output.sum().backward()
    assert output.dtype == value.grad.dtype == locations.grad.dtype == dtype
    precise = [t.detach().float().requires_grad_() for t in (value, locations, weights)]
    expected = attend(*precise)
    expected.sum().backward()
    torch.testing.assert_close(output, expected.to(dtype))
    for tensor, exact in zip((value, locations, weights), precise, strict=True):
        torch.testing.assert_close(tensor.grad, exact.grad.to(dtype))


def test_gradients_of_the_layer():
    layer = MultiScaleDeformableAttention(
        embed_dims=8, num_heads=2, num_levels=2, num_points=3, dropout=0.0
    ).double()
    torch.nn.init.normal_(layer.sampling_offsets.weight, std=0.1)  # zero as built: no gradient of the queries
    query = torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value = torch.randn(16, 2, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    points = torch.rand(2, 5, 2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def run(query, value):
        places = dict(reference_points=points, spatial_shapes=SHAPES, level_start_index=STARTS)
        return layer(query, value=value, **places)

    assert gradcheck(run, (query.requires_grad_(), value.requires_grad_()), fast_mode=True)
