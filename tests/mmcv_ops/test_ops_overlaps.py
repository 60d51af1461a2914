from __future__ import annotations

import lad  # noqa: F401  provides mmcv._ext, which mmcv.ops loads when it is imported

# isort: split

import numpy as np
import pytest
import torch
from mmcv.ops import bbox_overlaps


def boxes(count, seed):
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * 10
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


def pair_overlap(a, b, mode, offset):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    area_a, area_b = ((c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b))
    return width * height / (area_a if mode == "iof" else area_a + area_b - width * height)


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("offset", [0, 1])
def test_overlaps(mode, offset):
    first, second = boxes(5, 0), boxes(4, 1)
    expected = [[pair_overlap(a, b, mode, offset) for b in second.tolist()] for a in first.tolist()]
    np.testing.assert_allclose(bbox_overlaps(first, second, mode, False, offset), expected, rtol=1e-5)
    aligned = bbox_overlaps(first[:4], second, mode, True, offset)
    np.testing.assert_allclose(aligned, np.diag(np.array(expected)[:4]), rtol=1e-5)


def test_no_boxes():
    assert bbox_overlaps(torch.zeros(0, 4), boxes(3, 0)).shape == (0, 3)
