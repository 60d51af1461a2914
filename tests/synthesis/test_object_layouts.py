"""Boxes and classes of synthesised images: drawn at random, or those of a COCO file."""

import json

from lad.errors import ConfigError, DataError
from lad.synthesis.layouts import RandomLayouts, RecordedLayouts, overlap_of

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 12),
    num_classes=st.integers(1, 30),
    least=st.floats(0.05, 0.9),
    aspect=st.floats(1, 4),
    overlap=st.floats(0, 1),
)
def test_random_layouts_keep_their_promises(seed, count, num_classes, least, aspect, overlap):
    height, width = 96, 128
    layouts = RandomLayouts((height, width), num_classes, (1, 5), (least, 1.0), aspect, overlap).draw(
        count, np.random.default_rng(seed)
    )
    assert len(layouts) == count
    for layout in layouts:
        assert 1 <= len(layout.labels) == len(layout.bboxes) <= 5
        boxes = layout.bboxes.double().numpy()
        assert (boxes >= 0).all()
        assert (boxes <= [width, height, width, height]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        for number in range(1, len(boxes)):
            assert overlap_of(boxes[number], boxes[:number]) <= overlap + 1e-4
    counts = torch.cat([layout.labels for layout in layouts]).bincount(minlength=num_classes)
    assert counts.max() - counts.min() <= 1


def test_sizes_and_ratios_are_within_their_ranges():
    layouts = RandomLayouts((128, 192), 3, (1, 1), (0.2, 0.4), 2.0).draw(300, np.random.default_rng(0))
    sides = torch.cat([layout.bboxes[:, 2:] - layout.bboxes[:, :2] for layout in layouts])
    roots = sides.prod(dim=1).sqrt() / 128
    ratios = sides[:, 0] / sides[:, 1]
    assert 0.2 <= roots.min() + 1e-5 < 0.22
    assert 0.38 < roots.max() <= 0.4 + 1e-5
    assert 0.5 <= ratios.min() + 1e-5 < 0.55
    assert 1.9 < ratios.max() <= 2 + 1e-5


def test_same_seed_same_layouts():
    first, second = (RandomLayouts((64, 64), 5).draw(4, np.random.default_rng(7)) for _ in range(2))
    assert all(torch.equal(one.bboxes, other.bboxes) for one, other in zip(first, second, strict=True))
    other = RandomLayouts((64, 64), 5).draw(4, np.random.default_rng(8))
    assert not torch.equal(first[0].bboxes, other[0].bboxes)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(num_classes=0),
        dict(objects=(0, 3)),
        dict(objects=(4, 3)),
        dict(sides=(0.0, 0.5)),
        dict(sides=(0.5, 0.4)),
        dict(sides=(0.5, 1.1)),
        dict(aspect=0.5),
        dict(aspect=float("nan")),
        dict(overlap=-0.1),
    ],
)
def test_impossible_layouts_are_refused(wrong):
    with pytest.raises(ConfigError):
        RandomLayouts(**(dict(size=(64, 64), num_classes=3) | wrong))


def test_overlap_is_of_the_smaller_box():
    assert overlap_of(np.array([0.0, 0, 10, 10]), np.array([[5.0, 5, 7, 15], [20, 20, 30, 30]])) == 0.5


def coco(tmp_path, annotations, images=None, names=("dog", "cat")):
    path = tmp_path / "boxes.json"
    content = dict(
        images=images or [dict(id=4, width=100, height=50), dict(id=9, width=40, height=40)],
        annotations=[
            dict(dict(id=number, area=1.0, iscrowd=0), **one) for number, one in enumerate(annotations, 1)
        ],
        categories=[dict(id=number, name=name) for number, name in enumerate(names, 5)],
    )
    path.write_text(json.dumps(content))
    return path


def test_boxes_of_a_file_are_stretched_with_their_image(tmp_path):
    path = coco(
        tmp_path,
        [
            dict(image_id=4, category_id=6, bbox=[10, 10, 50, 20]),
            dict(image_id=9, category_id=5, bbox=[30, 0, 20, 40]),  # beyond the border
            dict(image_id=9, category_id=6, bbox=[0, 0, 1, 40]),  # of 3.2 pixels
            dict(image_id=4, category_id=5, bbox=[0, 0, 50, 50], iscrowd=1),
        ],
    )
    first, second = RecordedLayouts.read(path, ("cat", "dog"), (64, 128)).layouts
    assert torch.allclose(first.bboxes, torch.tensor([[12.8, 12.8, 76.8, 38.4]]))
    assert first.labels.tolist() == [0]
    assert torch.allclose(second.bboxes, torch.tensor([[96.0, 0, 128, 64]]))
    assert second.labels.tolist() == [1]


def test_layouts_of_a_file_are_used_equally_often(tmp_path):
    images = [dict(id=number, width=64, height=64) for number in range(3)]
    path = coco(tmp_path, [dict(image_id=n, category_id=5, bbox=[n, 0, 20, 20]) for n in range(3)], images)
    drawn = RecordedLayouts.read(path, ("dog", "cat"), (64, 64)).draw(7, np.random.default_rng(0))
    lefts = [int(layout.bboxes[0, 0]) for layout in drawn]
    assert sorted(lefts.count(n) for n in range(3)) == [2, 2, 3]
    assert sorted(lefts[:3]) == [0, 1, 2]


def test_file_without_the_teachers_classes_is_refused(tmp_path):
    path = coco(tmp_path, [dict(image_id=4, category_id=6, bbox=[10, 10, 50, 20])])
    with pytest.raises(ConfigError, match=r"no box of at least 4 pixels of the teacher's classes \(cow\)"):
        RecordedLayouts.read(path, ("cow",), (64, 64))


@pytest.mark.parametrize(
    "annotation",
    [dict(image_id=4, category_id=6), dict(image_id=4, category_id=6, bbox=[0, 0, float("nan"), 4])],
)
def test_file_with_unusable_boxes_is_refused(tmp_path, annotation):
    with pytest.raises(DataError, match=r"tools/check_dataset\.py"):
        RecordedLayouts.read(coco(tmp_path, [annotation]), ("dog", "cat"), (64, 64))


def test_missing_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match="there is no such annotation file"):
        RecordedLayouts.read(tmp_path / "none.json", ("dog",), (64, 64))
