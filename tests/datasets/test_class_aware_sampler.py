"""Class-balanced sampling: how often each class is drawn, processes, resuming, data without objects."""

from lad.datasets.class_aware_sampler import ClassAwareSampler
from lad.datasets.coco_file import AnnotationTable
from lad.datasets.tail import balanced_objects
from lad.engine import ResumableBatchSampler
from lad.errors import DataError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdet.datasets.samplers import ClassAwareSampler as MMDetections
from mmdet.registry import DATA_SAMPLERS


class Images:
    """A data set of images with the classes of their objects."""

    def __init__(self, objects, classes=None):
        self.objects = objects
        number = max((max(own, default=-1) for own in objects), default=-1) + 1
        self.metainfo = dict(classes=tuple("abcdefghij"[: classes or number]))

    def __len__(self):
        return len(self.objects)

    def get_cat_ids(self, index):
        return self.objects[index]


def long_tail(images=1000):
    """Ten classes whose frequency falls a hundredfold, as ``make_digits.py --imbalance 100`` makes them."""
    rng = np.random.default_rng(0)
    weights = 100.0 ** -(np.arange(10) / 9)
    return [list(rng.choice(10, rng.integers(1, 5), p=weights / weights.sum())) for _ in range(images)]


def sample(dataset, seed=0, epochs=range(1), **settings):
    sampler = DATA_SAMPLERS.build(
        dict(type="ClassAwareSampler", seed=seed, **settings), default_args=dict(dataset=dataset)
    )
    assert type(sampler) is ClassAwareSampler
    drawn = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        found = list(sampler)
        assert len(found) == len(sampler) == len(dataset)
        drawn.append(found)
    return drawn


def test_in_one_process_the_order_is_mmdetections():
    dataset = Images(long_tail(97))
    theirs = MMDetections(dataset, seed=3)
    theirs.set_epoch(2)
    assert sample(dataset, seed=3, epochs=[2]) == [list(theirs)]


def test_each_class_is_drawn_equally_often_within_2_percent():
    """Of each image the class for which it was drawn is not known: images of a single class tell."""
    dataset = Images([[c] for c in range(10) for _ in range([500, 300, 90, 50, 25, 15, 10, 5, 3, 2][c])])
    for drawn in sample(dataset, epochs=range(3)):
        counts = np.bincount([dataset.objects[index][0] for index in drawn], minlength=10)
        assert np.abs(counts / counts.mean() - 1).max() <= 0.02


def test_images_of_a_class_are_drawn_equally_often():
    dataset = Images([[0]] * 90 + [[1]] * 10)
    [drawn] = sample(dataset)
    assert sorted(np.bincount(drawn, minlength=100)[90:]) == [5] * 10


def test_expected_objects_are_those_that_are_drawn_within_2_percent():
    """Sampling images is not sampling objects: the frequent classes come along."""
    objects = long_tail()
    table = AnnotationTable.of(
        dict(
            images=[dict(id=k, width=10, height=10) for k in range(len(objects))],
            categories=[dict(id=k, name="abcdefghij"[k]) for k in range(10)],
            annotations=[
                dict(image_id=k, category_id=int(c), iscrowd=0, bbox=[0, 0, 5, 5], area=25)
                for k, own in enumerate(objects)
                for c in own
            ],
        )
    )
    expected = np.array(balanced_objects(table, len(objects)))
    drawn = np.concatenate(sample(Images(objects), epochs=range(40)))
    found = sum(np.bincount(objects[index], minlength=10) for index in drawn) / 40
    assert np.abs(found / expected - 1).max() <= 0.02
    assert expected[0] > 4 * expected[9] > 300  # 100 draws each
    turned = balanced_objects(table, len(objects), classes=("j", "z", "a"))
    # Only images of these classes are drawn for them, half of the draws for each.
    assert turned[1] == 0
    assert turned[0] >= 500


def test_expected_objects_by_hand():
    """Image 0 has a, a, b, image 1 a: of 2 images one is drawn for b (image 0), one for a (either)."""
    objects = [(0, 0), (0, 0), (0, 1), (1, 0)]
    table = AnnotationTable.of(
        dict(
            images=[dict(id=k, width=10, height=10) for k in range(3)],
            categories=[dict(id=k, name=name) for k, name in enumerate("abc")],
            annotations=[
                dict(image_id=image, category_id=c, iscrowd=0, bbox=[0, 0, 5, 5], area=25)
                for image, c in objects
            ],
        )
    )
    assert balanced_objects(table, 2) == [1.5 * 2 + 0.5 * 1, 1.5, 0]
    assert balanced_objects(table, 2, kept=np.zeros(4, dtype=bool)) == [0, 0, 0]


@given(
    images=st.integers(3, 40),
    batch_size=st.integers(1, 7),
    epoch=st.integers(0, 5),
    seed=st.integers(0, 3),
    data=st.data(),
)
def test_epoch_from_any_batch_on_is_the_rest_of_the_whole_epoch(images, batch_size, epoch, seed, data):
    dataset = Images([[k % 3, *([3] if k == 1 else [])] for k in range(images)])

    def make():
        return ResumableBatchSampler(ClassAwareSampler(dataset, seed=seed), batch_size, seed=5)

    whole, part = make(), make()
    whole.seek(epoch, 0)
    expected = list(whole)
    assert len(expected) == len(whole)
    skip = data.draw(st.integers(0, len(expected)))
    part.seek(epoch, skip)
    assert list(part) == expected[skip:]
    assert list(part) == list(whole)  # the next epoch


def test_ranks_together_draw_what_one_process_draws(monkeypatch):
    dataset = Images(long_tail(12))

    def draws(rank, world_size):
        for module in ("lad.engine.batch_sampler", "mmdet.datasets.samplers.class_aware_sampler"):
            monkeypatch.setattr(f"{module}.get_dist_info", lambda: (rank, world_size))
        sampler = ClassAwareSampler(dataset, seed=3)
        assert len(sampler) == 12 // world_size
        return list(ResumableBatchSampler(sampler, 4 // world_size, seed=5))

    alone = draws(0, 1)
    together = [[*first, *second] for first, second in zip(draws(0, 2), draws(1, 2), strict=True)]
    assert [set(batch) for batch in together] == [set(batch) for batch in alone]


def test_odd_number_of_images_is_filled_up_for_two_processes(monkeypatch):
    monkeypatch.setattr("mmdet.datasets.samplers.class_aware_sampler.get_dist_info", lambda: (1, 2))
    sampler = ClassAwareSampler(Images([[0], [1], [0]]), seed=0)
    assert len(list(sampler)) == len(sampler) == 2


@pytest.mark.parametrize("objects", [[[], [], []], []])
def test_data_without_objects_is_refused_in_one_line(objects):
    with pytest.raises(DataError, match="images of Images has an object") as refused:
        sample(Images(objects, classes=3))
    assert "\n" not in str(refused.value)


def test_classes_without_images_are_passed_over():
    dataset = Images([[0], [2], [2], []], classes=5)
    [drawn] = sample(dataset)
    assert 3 not in drawn
    assert drawn.count(0) == 2
