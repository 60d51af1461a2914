"""Total variation of images."""

from lad.synthesis.total_variation import total_variation

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st


def test_by_hand():
    image = torch.tensor([[[[1.0, 4.0], [6.0, 2.0]]]])
    # Across |3|, |-4|; down |5|, |-2|; diagonals |1| and |2|: means 3.5, 3.5, 1 and 2.
    assert total_variation(image).item() == pytest.approx(10.0)


def test_constant_images_have_none():
    assert total_variation(torch.full((2, 3, 4, 5), 7.0)).item() == 0


@given(st.integers(0, 1000), st.integers(2, 6), st.integers(2, 6))
def test_as_by_loops(seed, height, width):
    image = torch.randn(1, 1, height, width, generator=torch.Generator().manual_seed(seed))
    pixels, total = image[0, 0].tolist(), 0.0
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        found = [
            abs(pixels[i][j] - pixels[i + down][j + across])
            for i in range(height - down)
            for j in range(width)
            if 0 <= j + across < width
        ]
        total += sum(found) / len(found)
    assert total_variation(image).item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 1, 5), (1, 3, 5, 1), (3, 5, 5)])
def test_images_of_a_single_row_are_refused(shape):
    with pytest.raises(ValueError, match="at least 2"):
        total_variation(torch.zeros(shape))
