"""Sheet of the images of a COCO file with their boxes."""

from lad.analysis.pictures.contact_sheet import draw_contact_sheet

import numpy as np
import pytest
from PIL import Image

BLUE = (0, 0, 200)


@pytest.fixture
def content(tmp_path):
    for number in (1, 2, 3):
        Image.new("RGB", (40, 20), BLUE).save(tmp_path / f"{number}.png")
    return dict(
        images=[dict(id=number, file_name=f"{number}.png", width=40, height=20) for number in (1, 2, 3)],
        annotations=[dict(id=1, image_id=2, category_id=7, bbox=[10, 5, 20, 10])],
        categories=[dict(id=7, name="cat")],
    )


def test_images_lie_in_a_grid_and_boxes_where_they_belong(content, tmp_path):
    draw_contact_sheet(tmp_path, content, tmp_path / "sheet.png", columns=2, cell=200)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    # 6 pixels of gap, 34 of title, cells of 200 by 100.
    for left, top in ((6, 34), (212, 34), (6, 140)):
        assert np.abs(pixels[top + 90, left + 190] - BLUE).max() <= 1
    assert (pixels[235, 420:] == 255).all()  # no fourth image
    # The box's left side is at 212 + 10 * 5, and no other image has one.
    orange = np.abs(pixels - (0xE6, 0x9F, 0x00)).max(axis=2) < 30
    assert orange[34 + 25 + 25, 212 + 50 - 2 : 212 + 50 + 3].any()
    assert not orange[34:134, 6:206].any()
    assert not orange[140:240].any()


def test_only_so_many_images_are_drawn(content, tmp_path):
    sizes = []
    for count in (1, 3):
        draw_contact_sheet(tmp_path, content, tmp_path / "sheet.png", count=count, columns=1, cell=200)
        sizes.append(Image.open(tmp_path / "sheet.png").size)
    assert sizes == [(420, 140), (420, 352)]


def test_same_images_same_bytes(content, tmp_path):
    for name in ("a.png", "b.png"):
        draw_contact_sheet(tmp_path, content, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
