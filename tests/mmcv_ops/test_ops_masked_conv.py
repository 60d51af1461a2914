from __future__ import annotations

import lad  # noqa: F401  provides mmcv._ext, which mmcv.ops loads when it is imported

# isort: split

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import MaskedConv2d


def features(dtype=torch.float64):
    return torch.randn(1, 3, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.filterwarnings("ignore:This overload of addmm")
@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (1, 0), ((5, 3), (2, 1))])
def test_convolves_at_the_chosen_pixels_only(kernel, padding):
    layer = MaskedConv2d(3, 4, kernel, padding=padding).double()
    mask = torch.rand(1, 6, 7, generator=torch.Generator().manual_seed(1)) > 0.6
    expected = F.conv2d(features(), layer.weight, layer.bias, padding=padding) * mask
    torch.testing.assert_close(layer(features(), mask), expected)


@pytest.mark.filterwarnings("ignore:This overload of addmm")
def test_fewer_padded_rows_than_the_kernel_reaches():
    layer = MaskedConv2d(3, 4, 3, padding=0).double()
    mask = torch.zeros(1, 6, 7)
    mask[0, 3, 2] = 1
    output = layer(features(), mask)
    expected = F.conv2d(features(), layer.weight, layer.bias)
    torch.testing.assert_close(output[..., 3, 2], expected[..., 3, 2])
    assert output.count_nonzero() == 4


def test_no_chosen_pixel():
    layer = MaskedConv2d(3, 4, 3, padding=1).double()
    assert not layer(features(), torch.zeros(1, 6, 7)).any()


def test_without_a_mask_it_is_a_convolution():
    layer = MaskedConv2d(3, 4, 3, padding=1).double()
    torch.testing.assert_close(layer(features()), F.conv2d(features(), layer.weight, layer.bias, padding=1))
