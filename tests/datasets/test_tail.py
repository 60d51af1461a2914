"""How often each class of an annotation file occurs."""

from lad.commands.check import histogram
from lad.datasets.coco_file import AnnotationTable
from lad.datasets.coverage import expected_coverage
from lad.datasets.tail import ClassCount, FrequencyBounds, by_frequency, class_counts, describe_tail
from lad.errors import ConfigError

import pytest


def table(objects):
    """Objects as (image, category, crowd)."""
    return AnnotationTable.of(
        dict(
            images=[dict(id=k, width=10, height=10) for k in range(4)],
            categories=[dict(id=k, name=name) for k, name in enumerate("abc")],
            annotations=[
                dict(image_id=image, category_id=category, iscrowd=crowd, bbox=[0, 0, 5, 5], area=25)
                for image, category, crowd in objects
            ],
        )
    )


def test_images_are_counted_once_and_crowds_and_strangers_not_at_all():
    counts = class_counts(table([(0, 0, 0), (0, 0, 0), (1, 0, 0), (1, 1, 1), (9, 1, 0), (2, 7, 0)]))
    assert counts == [ClassCount("a", 2, 3), ClassCount("b", 0, 0), ClassCount("c", 0, 0)]
    assert class_counts(table([]), classes=("c", "z")) == [
        ClassCount("c", 0, 0),
        ClassCount("z", 0, 0),
    ]


def test_frequencies_are_those_of_lvis_by_default():
    counts = [
        ClassCount("a", 10, 99),
        ClassCount("b", 11, 11),
        ClassCount("c", 100, 1),
        ClassCount("d", 101, 1),
    ]
    assert by_frequency(counts) == dict(rare=["a"], common=["b", "c"], frequent=["d"])
    assert by_frequency(counts, FrequencyBounds(0, 10)) == dict(
        rare=[], common=["a"], frequent=["b", "c", "d"]
    )


def test_rare_classes_are_named():
    counts = [ClassCount(str(k), k, k) for k in (3, 40, 9)]
    assert describe_tail(counts) == "2 of 3 classes are rare (in at most 10 images): 3, 9"
    assert describe_tail(counts, FrequencyBounds(2, 3)) == "none of 3 classes is rare (in at most 2 images)"


@pytest.mark.parametrize("bounds", [(11, 10), (-1, 3), ("1", 3), (1.5, 3)])
def test_bounds_that_are_no_bounds_are_refused(bounds):
    with pytest.raises(ConfigError, match="0 <= rare <= common"):
        FrequencyBounds(*bounds)


def test_histogram_has_the_objects_of_an_epoch_of_class_balanced_sampling():
    """Of 4 images 2 are drawn for a (images 0 and 1 once each), 2 for b (image 1): a has 2 + 1 + 2 objects, b 3."""
    coverage = expected_coverage(table([(0, 0, 0), (0, 0, 0), (1, 0, 0), (1, 1, 0)]), None)
    rows = [line.split()[:4] for line in histogram(coverage, 40).splitlines()]
    assert rows[0] == ["class", "images", "objects", "balanced"]
    assert rows[2:] == [["a", "2", "3", "5"], ["b", "1", "1", "3"], ["c", "0", "0", "0"]]
    assert histogram(coverage, 1).splitlines()[0] == "(2 more frequent classes)"
