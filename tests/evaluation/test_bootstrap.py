"""mAP of resampled images against pycocotools, and the intervals made of it."""

import copy

from lad.errors import DataError
from lad.evaluation.bootstrap import (
    Replicates,
    difference_interval,
    image_weights,
    match_images,
    mean_interval,
    replicate,
    weighted_map,
)
from lad.evaluation.detections import coco_evaluation, coco_metrics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO


def coco(images, annotations, categories=3):
    """COCO ground truth from lists, without a file."""
    truth = COCO()
    truth.dataset = dict(
        images=[dict(id=number, width=200, height=200) for number in images],
        categories=[dict(id=number, name=str(number)) for number in range(1, categories + 1)],
        annotations=[
            dict(dict(iscrowd=0), **annotation, id=number, area=annotation["bbox"][2] * annotation["bbox"][3])
            for number, annotation in enumerate(annotations, 1)
        ],
    )
    truth.createIndex()
    return truth


def scene(seed, images=6, noise=4.0, crowds=False):
    """Random objects, and detections that hit some of them: coarse scores, so that there are ties between images."""
    random = np.random.default_rng(seed)
    annotations, found = [], []
    for image in range(1, images + 1):
        for _ in range(random.integers(0, 6)):
            box = [*(random.random(2) * 120), *(random.random(2) * 60 + 12)]
            label = int(random.integers(1, 4))
            crowd = int(crowds and random.random() < 0.3)
            annotations.append(dict(image_id=image, category_id=label, bbox=box, iscrowd=crowd))
            for _ in range(random.integers(0, 3)):
                moved = [float(x + random.normal() * noise) for x in box]
                moved[2:] = [max(x, 2.0) for x in moved[2:]]
                score = round(float(random.random()), 1) + len(found) * 1e-9 * int(random.random() < 0.5)
                found.append(dict(image_id=image, category_id=label, bbox=moved, score=score))
        for _ in range(random.integers(0, 4)):
            box = [*map(float, random.random(2) * 120), 30.0, 30.0]
            found.append(dict(image_id=image, category_id=int(random.integers(1, 4)), bbox=box, score=0.35))
    return annotations, found


def repeated(annotations, found, weights):
    """The same data set with every image as often as its weight says, each time under another id."""
    copies = [(old, old * 100 + time) for old, weight in enumerate(weights, 1) for time in range(weight)]

    def repeat(items):
        return [
            dict(copy.deepcopy(item), image_id=new)
            for old, new in copies
            for item in items
            if item["image_id"] == old
        ]

    return coco([new for _, new in copies], repeat(annotations)), repeat(found)


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), crowds=st.booleans())
def test_with_every_image_once_it_is_pycocotools_map(seed, crowds):
    annotations, found = scene(seed, crowds=crowds)
    evaluation = coco_evaluation(coco(range(1, 7), annotations), found)
    value = weighted_map(match_images(evaluation), np.ones(6))
    assert value == pytest.approx([coco_metrics(evaluation)["mAP"]], abs=1e-12)


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), weights=st.lists(st.integers(0, 3), min_size=6, max_size=6).filter(any))
def test_weights_count_like_copies_of_the_images(seed, weights):
    annotations, found = scene(seed)
    # Without ties inside an image, whose order among copies is a matter of taste.
    for number, detection in enumerate(found):
        detection["score"] += 1e-7 * number
    matches = match_images(coco_evaluation(coco(range(1, 7), annotations), found))
    oracle = coco_metrics(coco_evaluation(*repeated(annotations, found, weights)))["mAP"]
    assert weighted_map(matches, np.array(weights)) == pytest.approx([oracle], abs=1e-12)


def test_average_precision_by_hand():
    # One class, two images with an object each; image 1 is found (IoU 1) after a wrong box of image 2.
    truth = coco(
        [1, 2], [dict(image_id=i, category_id=1, bbox=[10, 10, 50, 50]) for i in (1, 2)], categories=1
    )
    found = [
        dict(image_id=2, category_id=1, bbox=[100, 100, 50, 50], score=0.9),
        dict(image_id=1, category_id=1, bbox=[10, 10, 50, 50], score=0.8),
    ]
    matches = match_images(coco_evaluation(truth, found))
    # Each image once: precision 1/2 up to recall 1/2, that is at 51 of 101 recalls.
    # Image 1 alone, twice: no wrong box, recall 1. Image 2 alone: nothing found. Image 1 three times and image 2
    # once: precision 3/4 up to recall 3/4, at 76 recalls.
    weights = np.array([[1, 1], [2, 0], [0, 2], [3, 1]])
    expected = [51 / 101 / 2, 1.0, 0.0, 76 / 101 * 3 / 4]
    assert weighted_map(matches, weights) == pytest.approx(expected, abs=1e-9)


def test_a_class_counts_only_where_it_has_objects():
    annotations = [dict(image_id=i, category_id=i, bbox=[10, 10, 50, 50]) for i in (1, 2)]
    found = [dict(image_id=1, category_id=1, bbox=[10, 10, 50, 50], score=0.8)]
    matches = match_images(coco_evaluation(coco([1, 2, 3], annotations), found))
    # Class 1 is found, class 2 is not, class 3 is nowhere; image 3 is empty.
    weights = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 0, 1]])
    assert weighted_map(matches, weights) == pytest.approx([0.5, 1.0, 0.0, -1.0], abs=1e-9)


def test_a_detector_that_finds_nothing_has_map_zero():
    evaluation = coco_evaluation(coco([1], [dict(image_id=1, category_id=1, bbox=[1, 1, 9, 9])]), [])
    assert weighted_map(match_images(evaluation), np.ones(1)) == [0.0]
    assert coco_metrics(evaluation)["mAP"] == 0.0


def test_many_replicates_are_the_single_ones_in_a_row():
    matches = match_images(coco_evaluation(coco(range(1, 7), scene(3)[0]), scene(3)[1]))
    weights = image_weights(6, 300, np.random.default_rng(0))
    assert (weights.sum(1) == 6).all()
    together = weighted_map(matches, weights)
    alone = [weighted_map(matches, weights[row])[0] for row in (0, 150, 299)]
    assert together[[0, 150, 299]] == pytest.approx(alone)


def detector(noise, seeds=(0, 1, 2), images=30):
    """Detections of the same objects, displaced by so many pixels, by seed."""
    annotations = [
        dict(image_id=i, category_id=1 + k, bbox=[20.0 + 60 * k, 20.0, 40.0, 40.0])
        for i in range(1, images + 1)
        for k in range(2)
    ]
    truth, found = coco(range(1, images + 1), annotations), {}
    for seed in seeds:
        random = np.random.default_rng(100 + seed)
        boxes = [
            dict(
                image_id=a["image_id"],
                category_id=a["category_id"],
                bbox=[float(x + random.normal() * noise) for x in a["bbox"]],
                score=float(random.random()),
            )
            for a in annotations
        ]
        found[seed] = match_images(coco_evaluation(truth, boxes, areas=False))
    return found


@pytest.fixture(scope="module")
def detectors():
    weights = image_weights(30, 400, np.random.default_rng(0))
    return {noise: replicate(detector(noise), weights) for noise in (1.0, 5.0)}


def test_a_better_detector_has_its_interval_above_zero_and_the_worse_below(detectors):
    interval = difference_interval(detectors[1.0], detectors[5.0])
    assert 0 < interval.low < interval.value < interval.high
    assert interval.seeds == 3
    turned = difference_interval(detectors[5.0], detectors[1.0])
    assert turned.low < turned.value == pytest.approx(-interval.value)
    assert turned.high < 0


def test_identical_runs_differ_by_zero_in_every_replicate(detectors):
    interval = difference_interval(detectors[1.0], detectors[1.0])
    assert (interval.low, interval.value, interval.high) == (0.0, 0.0, 0.0)


def test_images_and_seeds_both_widen_the_interval():
    values, images = {0: 0.54, 1: 0.56}, np.array([-0.1, 0.1] * 500)
    both = Replicates(values, {seed: value + images for seed, value in values.items()})
    only_seeds = Replicates(values, {seed: np.full(1000, value) for seed, value in values.items()})
    only_images = Replicates({0: 0.55}, {0: 0.55 + images})
    widths = [mean_interval(one) for one in (both, only_seeds, only_images)]
    # Seeds alone: Student's interval of two values, 12.706 = t(0.975, 1) times s / sqrt(2) = 0.02 / 2 to each side.
    assert widths[1].value == pytest.approx(0.55)
    assert (widths[1].low, widths[1].high) == pytest.approx((0.55 - 0.12706, 0.55 + 0.12706), abs=2e-4)
    assert (widths[2].low, widths[2].high) == pytest.approx((0.45, 0.65))
    assert widths[0].low < widths[1].low < widths[2].low
    assert widths[0].high > widths[1].high > widths[2].high


def false_verdicts(seeds, images, both, number=1000, replicates=200, pictures=87):
    """How often an interval of three seeds lies beside 0 where nothing is but scatter, of three kinds."""
    random, wrong = np.random.default_rng(7), 0
    for _ in range(number):
        scores = random.normal(0, seeds, (3, 1)) + random.normal(0, images * pictures**0.5, pictures)
        scores = scores + random.normal(0, both * pictures**0.5, (3, pictures))
        weights = image_weights(pictures, replicates, random) / pictures
        one = Replicates(dict(enumerate(scores.mean(1))), dict(enumerate(scores @ weights.T)))
        interval = mean_interval(one)
        wrong += interval.low > 0 or interval.high < 0
    return wrong / number


@pytest.mark.parametrize("scatter", [(1.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 0.3, 0.5), (0.1, 1.0, 0.1)])
def test_three_seeds_without_any_effect_are_seldom_a_verdict(scatter):
    # 5 % is meant; 1,000 trials give 3.6 % to 6.4 % of it. Drawing three seeds from three gives 12 % to 29 %, and 7.5 %
    # where the seeds hardly differ.
    assert false_verdicts(*scatter) < 0.064


def test_seeds_are_taken_in_pairs_where_both_have_them():
    values = {0: 0.2, 1: 0.5, 2: 0.8}
    one = Replicates(values, {seed: np.full(200, value) for seed, value in values.items()})
    higher = Replicates(
        {seed: value + 0.01 for seed, value in values.items()},
        {seed: np.full(200, value + 0.01) for seed, value in values.items()},
    )
    paired = difference_interval(higher, one)
    assert (paired.low, paired.high, paired.seeds) == pytest.approx((0.01, 0.01, 3))
    # A detector without a common seed is compared mean to mean: the seeds' scatter is in the interval.
    other = Replicates({7: 0.51}, {7: np.full(200, 0.51)})
    apart = difference_interval(other, one)
    assert apart.value == pytest.approx(0.01)
    assert apart.low < -0.1 < 0.1 < apart.high
    # One seed of three in common: that one alone.
    some = difference_interval(Replicates({1: 0.6}, {1: np.full(200, 0.6)}), one)
    assert (some.low, some.value, some.high, some.seeds) == pytest.approx((0.1, 0.1, 0.1, 1))


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_limits_are_those_of_the_sum_of_two_distributions(seeds):
    """An independent reference: very many draws of both."""
    random = np.random.default_rng(3)
    images = random.gamma(2.0, 0.01, 1000)
    values = dict(enumerate(0.5 + random.normal(0, 0.02, seeds)))
    interval = mean_interval(Replicates(values, {seed: value + images for seed, value in values.items()}))
    drawn = np.mean(list(values.values())) + random.choice(images, 2_000_000)
    if seeds > 1:
        scale = np.std(list(values.values()), ddof=1) / seeds**0.5
        drawn += scale * random.standard_t(seeds - 1, 2_000_000)
    expected = np.quantile(drawn, [0.025, 0.975])
    width = expected[1] - expected[0]
    assert np.array([interval.low, interval.high]) == pytest.approx(expected, abs=0.01 * width)


def test_limits_hardly_depend_on_the_number_of_replicates():
    random = np.random.default_rng(5)
    values = {0: 0.51, 1: 0.52, 2: 0.50}
    images = random.normal(0, 0.01, 2000)
    lows = []
    for number in (1900, 1950, 2000):
        one = Replicates(values, {seed: value + images[:number] for seed, value in values.items()})
        lows.append(mean_interval(one).low)
    assert np.ptp(lows) < 2e-4


def test_deviation_over_images_is_split_into_what_seeds_share_and_what_each_has():
    random = np.random.default_rng(11)
    shared, own = random.normal(0, 0.003, 200_000), random.normal(0, 0.008, (4, 200_000))
    one = Replicates(dict.fromkeys(range(4), 0.5), dict(enumerate(0.5 + shared + own)))
    interval = mean_interval(one)
    assert interval.image_deviation == pytest.approx(0.003, rel=0.02)
    assert interval.image_seed_deviation == pytest.approx(0.008, rel=0.02)
    single = mean_interval(Replicates({0: 0.5}, {0: 0.5 + shared + own[0]}))
    assert single.image_deviation == pytest.approx(np.hypot(0.003, 0.008), rel=0.02)
    assert single.image_seed_deviation == 0


def test_detectors_of_other_images_are_refused():
    with pytest.raises(DataError, match="30 images and others on 31"):
        replicate(detector(1.0, seeds=(0,)), np.ones((2, 31)))
