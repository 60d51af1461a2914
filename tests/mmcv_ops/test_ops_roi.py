from __future__ import annotations

import lad  # noqa: F401  provides mmcv._ext, which mmcv.ops loads when it is imported

# isort: split

import math

import numpy as np
import pytest
import torch
from mmcv.ops import RoIAlign, RoIPool, roi_align, roi_pool
from torch.autograd import gradcheck

ROIS = torch.tensor(
    [
        [0, 0.0, 0.0, 15.0, 11.0],
        [1, 3.3, 2.1, 9.7, 10.4],
        [0, 5.0, 5.0, 5.0, 5.0],
        [1, -6.0, -4.0, 8.5, 30.0],
        [0, 14.2, 9.1, 24.0, 13.0],
        [1, 40.0, 40.0, 50.0, 50.0],
    ],
    dtype=torch.float64,
)


def features(dtype=torch.float64):
    return torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def bilinear(plane, y, x):
    """Value between pixels; up to one pixel outside the border's value, beyond that 0."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * plane[top, left] + dx * plane[top, right]
    lower = (1 - dx) * plane[bottom, left] + dx * plane[bottom, right]
    return (1 - dy) * upper + dy * lower


def roi_align_reference(feats, rois, size, scale, sampling_ratio, aligned):
    output = np.zeros((len(rois), feats.shape[1], *size))
    for r, (image, *box) in enumerate(rois):
        x1, y1, x2, y2 = (c * scale - (0.5 if aligned else 0) for c in box)
        height, width = y2 - y1, x2 - x1
        if not aligned:
            height, width = max(height, 1), max(width, 1)
        bin_h, bin_w = height / size[0], width / size[1]
        rows = sampling_ratio or math.ceil(bin_h)
        columns = sampling_ratio or math.ceil(bin_w)
        for c, i, j in np.ndindex(output.shape[1:]):
            samples = [
                bilinear(
                    feats[int(image), c],
                    y1 + i * bin_h + (a + 0.5) * bin_h / rows,
                    x1 + j * bin_w + (b + 0.5) * bin_w / columns,
                )
                for a in range(rows)
                for b in range(columns)
            ]
            output[r, c, i, j] = sum(samples) / max(rows * columns, 1)
    return output


def roi_pool_reference(feats, rois, size, scale):
    """Maxima, and for each the pixel it came from (None where nothing was pooled)."""
    height, width = feats.shape[2:]
    output = np.zeros((len(rois), feats.shape[1], *size))
    source = np.full(output.shape, None)
    for r, (image, x1, y1, x2, y2) in enumerate(rois):
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        if x2 <= x1 or y2 <= y1:
            continue
        bin_h, bin_w = (y2 - y1) / size[0], (x2 - x1) / size[1]
        for c, i, j in np.ndindex(output.shape[1:]):
            rows = range(max(math.floor(i * bin_h + y1), 0), min(math.ceil((i + 1) * bin_h + y1), height))
            columns = range(max(math.floor(j * bin_w + x1), 0), min(math.ceil((j + 1) * bin_w + x1), width))
            cells = [(int(image), c, y, x) for y in rows for x in columns]
            if cells:
                best = max(cells, key=lambda cell: feats[cell])
                output[r, c, i, j], source[r, c, i, j] = feats[best], best
    return output, source


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 3])
@pytest.mark.parametrize(("size", "scale"), [((2, 3), 0.5), ((1, 1), 1.0), ((7, 7), 0.25)])
def test_roi_align_averages_bilinear_samples(aligned, sampling_ratio, size, scale):
    feats = features()
    pooled = RoIAlign(size, scale, sampling_ratio, aligned=aligned)(feats, ROIS)
    expected = roi_align_reference(feats.numpy(), ROIS.tolist(), size, scale, sampling_ratio, aligned)
    np.testing.assert_allclose(pooled.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_gradient(aligned, sampling_ratio):
    feats = features()[:, :2].requires_grad_()
    assert gradcheck(lambda x: roi_align(x, ROIS[:5], (2, 3), 0.5, sampling_ratio, "avg", aligned), feats)


def test_roi_align_gradient_of_a_transposed_output():
    feats = features().requires_grad_()
    pooled = roi_align(feats, ROIS, (2, 3), 0.5, 2)
    weights = torch.arange(float(pooled.numel()), dtype=torch.float64).view(pooled.transpose(2, 3).shape)
    assert gradcheck(lambda x: (roi_align(x, ROIS, (2, 3), 0.5, 2).transpose(2, 3) * weights).sum(), feats)


def test_roi_align_maximum_is_refused():
    with pytest.raises(NotImplementedError, match=r"roi_align.*max.*compiled mmcv"):
        RoIAlign(2, pool_mode="max")(features(), ROIS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layer", [RoIAlign((2, 3), 0.5, 2), RoIPool((2, 3), 0.5)])
def test_half_precision(layer, dtype):
    feats = features(dtype).requires_grad_()
    rois = ROIS.to(dtype)
    pooled = layer(feats, rois)
    pooled.sum().backward()
    precise = features(dtype).float().requires_grad_()
    expected = layer(precise, rois.float())
    expected.sum().backward()
    assert pooled.dtype == feats.grad.dtype == dtype
    torch.testing.assert_close(pooled, expected.to(dtype))
    torch.testing.assert_close(feats.grad, precise.grad.to(dtype))


@pytest.mark.parametrize("layer", [RoIAlign((2, 3), 0.5), RoIPool((2, 3), 0.5)])
def test_no_rois(layer):
    feats = features(torch.float32).requires_grad_()
    pooled = layer(feats, torch.zeros(0, 5))
    assert pooled.shape == (0, 3, 2, 3)
    pooled.sum().backward()
    assert not feats.grad.any()


@pytest.mark.parametrize(("size", "scale"), [((2, 3), 0.5), ((1, 1), 1.0), ((7, 7), 0.25), ((3, 2), 0.3)])
def test_roi_pool_takes_the_maximum_of_outward_rounded_bins(size, scale):
    feats = features()
    pooled = RoIPool(size, scale)(feats, ROIS)
    expected, _ = roi_pool_reference(feats.numpy(), ROIS.tolist(), size, scale)
    np.testing.assert_array_equal(pooled.numpy(), expected)


def test_roi_pool_gradient():
    feats = features().requires_grad_()
    assert gradcheck(lambda x: roi_pool(x, ROIS, (2, 3), 0.5), feats)


def test_roi_pool_sends_gradient_to_the_first_of_equal_maxima():
    feats = torch.randint(0, 2, (2, 3, 6, 8), generator=torch.Generator().manual_seed(0)).double()
    feats.requires_grad_()
    pooled = roi_pool(feats, ROIS, (2, 3), 0.5)
    weights = torch.rand(pooled.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (pooled * weights).sum().backward()
    _, source = roi_pool_reference(feats.detach().numpy(), ROIS.tolist(), (2, 3), 0.5)
    expected = np.zeros(feats.shape)
    for cell, weight in zip(source.flat, weights.flatten().tolist(), strict=True):
        if cell is not None:
            expected[cell] += weight
    np.testing.assert_allclose(feats.grad.numpy(), expected, atol=1e-12)


def test_roi_pool_of_a_region_that_ends_before_it_starts():
    # From column 4.5 to 4.2: its bins, rounded outwards, would hold column 4.
    feats = features().requires_grad_()
    pooled = roi_pool(feats, torch.tensor([[0, 9.0, 4, 7.4, 8]], dtype=torch.float64), 2, 0.5)
    pooled.sum().backward()
    assert not pooled.any()
    assert not feats.grad.any()


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize(
    "corners", [(math.nan, 1, 5, 5), (1, 1, math.nan, 5), (math.inf, 1, 5, 5), (-math.inf, 1, math.inf, 5)]
)
def test_regions_that_are_not_finite_hold_zeros_and_end_no_process(corners, ratio):
    feats = features().requires_grad_()
    rois = torch.tensor([[0, 2.0, 2, 10, 10], [0, *corners]], dtype=torch.float64)
    pooled = roi_align(feats, rois, (2, 3), 0.5, ratio, "avg", True)
    alone = roi_align(feats, rois[:1], (2, 3), 0.5, ratio, "avg", True)
    torch.testing.assert_close(pooled[:1], alone)
    assert not pooled[1].any()
    gradient, wanted = (torch.autograd.grad(each.sum(), feats)[0] for each in (pooled, alone))
    torch.testing.assert_close(gradient, wanted)
