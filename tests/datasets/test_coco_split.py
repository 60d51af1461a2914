"""A COCO file is split by images, and nothing is lost."""

from lad.datasets.coco_split import split_images

import pytest
from hypothesis import given
from hypothesis import strategies as st


def content(images, labelled=True):
    found = dict(
        info="mine", images=[dict(id=3 * i) for i in range(images)], categories=[dict(id=1, name="a")]
    )
    boxes = [dict(id=i, image_id=3 * (i % max(images, 1)), category_id=1) for i in range(2 * images)]
    return found | (dict(annotations=boxes) if labelled else {})


def ids(part, key):
    return [one["id"] for one in part[key]]


@given(st.integers(2, 40), st.floats(0.01, 0.99), st.integers(0, 5))
def test_each_image_and_its_boxes_are_in_one_of_the_parts(images, share, seed):
    whole = content(images)
    parts = split_images(whole, share, seed)
    for key in ("images", "annotations"):
        assert sorted(ids(parts[0], key) + ids(parts[1], key)) == ids(whole, key)
    for part in parts:
        assert {box["image_id"] for box in part["annotations"]} == set(ids(part, "images"))
        assert (part["info"], part["categories"]) == (whole["info"], whole["categories"])
        assert ids(part, "images") == sorted(ids(part, "images"))
    assert len(parts[1]["images"]) == min(max(round(share * images), 1), images - 1)


def test_the_split_is_the_seeds():
    whole = content(30)
    assert split_images(whole, 0.3, 1) == split_images(whole, 0.3, 1)
    assert ids(split_images(whole, 0.3, 1)[1], "images") != ids(split_images(whole, 0.3, 2)[1], "images")


def test_a_file_without_annotations_stays_without():
    assert "annotations" not in split_images(content(4, labelled=False), 0.5, 0)[0]


@pytest.mark.parametrize(("images", "share"), [(1, 0.5), (0, 0.5), (4, 0.0), (4, 1.0)])
def test_what_cannot_be_split_is_refused(images, share):
    with pytest.raises(ValueError, match=r"cannot be split|share must be"):
        split_images(content(images), share, 0)
