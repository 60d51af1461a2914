"""Confidence intervals of an mAP, or of a difference of two, over validation images and training seeds.

Images are resampled (bootstrap). Seeds are not: there are few of them, and resampling n seeds underestimates the
variance by (n - 1) / n. Their contribution follows Student's t: the mean of n runs deviates by t * s / sqrt(n).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lad.errors import DataError

import numpy as np
from pycocotools.cocoeval import COCOeval
from scipy.special import stdtrit

MAX_DETS = 100
# Number of replicates computed at once: bounds the memory (a few hundred MB for COCO's most frequent class).
CHUNK = 128
# Number of values that stand for a distribution where two are added.
QUANTILES = 1000


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class on all images in order of descending score, and their matches.

    Attributes:
        images: (D,) int, index of each detection's image.
        true: For each of T IoU thresholds the (ascending) indices of the detections that match an object.
        ignored: For each threshold the (ascending) indices of those that are ignored (they match a crowd).
        objects: (I,) int, objects of the class on each image.
    """

    images: np.ndarray
    true: tuple[np.ndarray, ...]
    ignored: tuple[np.ndarray, ...]
    objects: np.ndarray


@dataclass(frozen=True)
class ImageMatches:
    """Matches of a detector on all images, from which the mAP can be computed with any weight for each image.

    Attributes:
        image_ids: (I,) ids of the images, ascending.
        classes: One for each class.
        recalls: (R,) recalls at which the precision is evaluated.
    """

    image_ids: np.ndarray
    classes: tuple[ClassMatches, ...]
    recalls: np.ndarray


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval.

    Attributes:
        value: With every image once and every seed once.
        low, high: The 2.5 % and 97.5 % quantiles of the replicates.
        seeds: Number of seeds (of a difference: pairs); with one the interval covers the choice of images only.
        seed_deviation: Sample standard deviation over seeds (of a difference: of the pairs' differences, or of both
            detectors' together where they have no seed in common); None with one seed.
        image_deviation: Standard deviation over the resampled images of what all seeds share.
        image_seed_deviation: Standard deviation over the resampled images of what each seed has for itself; that of the
            mean of n seeds is this over the root of n.
    """

    value: float
    low: float
    high: float
    seeds: int
    seed_deviation: float | None = None
    image_deviation: float = 0.0
    image_seed_deviation: float = 0.0


def match_images(evaluation: COCOeval) -> ImageMatches:
    """Collect the matches of an evaluation: boxes of any area, at most 100 detections an image and class.

    Args:
        evaluation: On which ``evaluate`` was called with pycocotools' own area ranges, of which the first is 'all'.
    """
    params = evaluation.params
    image_ids = np.asarray(params.imgIds)
    number = len(image_ids)
    classes = []
    for position in range(len(params.catIds)):
        start = position * len(params.areaRng) * number
        classes.append(_collect(evaluation.evalImgs[start : start + number], len(params.iouThrs)))
    return ImageMatches(image_ids, tuple(classes), np.asarray(params.recThrs))


def _collect(evaluated: list[dict | None], num_thresholds: int) -> ClassMatches:
    found = [(index, image) for index, image in enumerate(evaluated) if image is not None]
    objects = np.zeros(len(evaluated), dtype=np.int64)
    for index, image in found:
        objects[index] = np.count_nonzero(np.asarray(image["gtIgnore"]) == 0)
    scores = [np.asarray(image["dtScores"][:MAX_DETS], dtype=float) for _, image in found]
    images = np.concatenate(
        [np.full(len(part), index) for part, (index, _) in zip(scores, found, strict=True)] or [objects[:0]]
    )
    # pycocotools' own order: images as they come, then stable by score.
    order = np.argsort(-np.concatenate(scores or [np.zeros(0)]), kind="mergesort")

    def ordered(key: str) -> np.ndarray:
        parts = [np.asarray(image[key], dtype=bool)[:, :MAX_DETS] for _, image in found]
        return np.concatenate(parts or [np.zeros((num_thresholds, 0), dtype=bool)], axis=1)[:, order]

    matched, ignored = ordered("dtMatches"), ordered("dtIgnore")
    return ClassMatches(
        images=images[order].astype(np.int64),
        true=tuple(np.flatnonzero(row) for row in matched & ~ignored),
        ignored=tuple(np.flatnonzero(row) for row in ignored),
        objects=objects,
    )


def weighted_map(matches: ImageMatches, weights: np.ndarray) -> np.ndarray:
    """Compute the mAP of a data set in which image i occurs ``weights[i]`` times.

    Interpolated precision changes at true detections only, and its maximum from a recall on is reached at one. So only
    the true detections and the number of all detections before each are needed.

    Detections of equal score keep the order that they have with every image once, an image's copies following each
    other. In a data set that really has the copies pycocotools orders such ties otherwise, and where right and wrong
    detections are among them the mAP may differ a little; without ties it is the same.

    Args:
        matches: Of :func:`match_images`.
        weights: (B, I) whole numbers, a row for each replicate.

    Returns:
        (B,) mAP over the classes that have objects; -1 where none has. With all weights 1 that of pycocotools.
    """
    weights = np.atleast_2d(np.asarray(weights, dtype=np.int64))
    return np.concatenate([_weighted_map(matches, part) for part in _chunks(weights)])


def _chunks(weights: np.ndarray) -> list[np.ndarray]:
    return [weights[start : start + CHUNK] for start in range(0, len(weights), CHUNK)]


def _weighted_map(matches: ImageMatches, weights: np.ndarray) -> np.ndarray:
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    for detections in matches.classes:
        objects = weights @ detections.objects
        precision = _average_precision(detections, weights, objects, matches.recalls)
        total += np.where(objects > 0, precision, 0.0)
        count += objects > 0
    return np.where(count > 0, total / np.maximum(count, 1), -1.0)


def _average_precision(
    detections: ClassMatches, weights: np.ndarray, objects: np.ndarray, recalls: np.ndarray
) -> np.ndarray:
    """(B,) average precision of one class, the mean over IoU thresholds; anything where there are no objects."""
    by_detection = weights[:, detections.images]
    # (B, D) detections so far, this one included.
    so_far = np.cumsum(by_detection, axis=1)
    # (B, most + 1) how many recall thresholds a number of true detections reaches.
    found = np.arange(objects.max(initial=0) + 1)
    reached = np.searchsorted(recalls, found / np.maximum(objects, 1)[:, None], side="right")
    rows = np.arange(len(weights))[:, None]
    total = np.zeros(len(weights))
    for true, ignored in zip(detections.true, detections.ignored, strict=True):
        if len(true) == 0:
            continue
        before = so_far[:, true]
        if len(ignored):
            passed = np.cumsum(by_detection[:, ignored], axis=1)
            passed = np.concatenate([np.zeros_like(passed[:, :1]), passed], axis=1)
            before = before - passed[:, np.searchsorted(ignored, true)]
        hits = np.cumsum(by_detection[:, true], axis=1)
        # The term that pycocotools adds against 0 / 0.
        precision = hits / (before + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        steps = np.diff(reached[rows, hits], axis=1, prepend=0)
        total += (best * steps).sum(axis=1)
    return total / (len(recalls) * len(detections.true))


def image_weights(num_images: int, replicates: int, generator: np.random.Generator) -> np.ndarray:
    """Draw (B, I) counts of each image when I images are sampled with replacement."""
    return generator.multinomial(num_images, np.full(num_images, 1 / num_images), size=replicates)


@dataclass(frozen=True)
class Replicates:
    """mAP of a detector on resampled images, for each of its seeds.

    Attributes:
        values: By seed: the mAP with every image once.
        resampled: By seed: (B,) the mAP of each replicate, on the same draws of images for all detectors.
    """

    values: Mapping[int, float]
    resampled: Mapping[int, np.ndarray]


def replicate(matches: Mapping[int, ImageMatches], weights: np.ndarray) -> Replicates:
    """Evaluate a detector's seeds on resampled images.

    Args:
        matches: By seed.
        weights: Of :func:`image_weights`; the same for all detectors that are compared.

    Raises:
        DataError: a seed was evaluated on another number of images.
    """
    for seed, found in matches.items():
        if len(found.image_ids) != weights.shape[1]:
            raise DataError(
                f"seed {seed} was evaluated on {len(found.image_ids)} images and others on {weights.shape[1]}: only "
                "detectors that were evaluated on the same images can be compared."
            )
    once = np.ones((1, weights.shape[1]), dtype=np.int64)
    return Replicates(
        values={seed: float(weighted_map(found, once)[0]) for seed, found in matches.items()},
        resampled={seed: weighted_map(found, weights) for seed, found in matches.items()},
    )


def mean_interval(one: Replicates) -> Interval:
    """Interval of the mean mAP over seeds, for resampled images and the variation of seeds."""
    shared, own = _image_deviations(one)
    deviation, seeds = _seed_deviation(one), len(one.values)
    return Interval(
        float(np.mean(list(one.values.values()))),
        *_limits(_over_seeds(one), [(deviation, seeds)]),
        seeds=seeds,
        seed_deviation=deviation,
        image_deviation=shared,
        image_seed_deviation=own,
    )


def difference_interval(better: Replicates, than: Replicates) -> Interval:
    """Interval of the difference of two detectors' mean mAP, for resampled images and the variation of seeds.

    Paired: a replicate has the same images for both. Where both were trained with some of the same seeds these alone
    are compared, and it is the differences of pairs that scatter; else each detector's seeds do for themselves.
    """
    common = sorted(set(better.values) & set(than.values))
    if not common:
        sides = (better, than)
        scatter = [(_seed_deviation(side), len(side.values)) for side in sides]
        known = [deviation for deviation, _ in scatter if deviation is not None]
        images = _over_seeds(better) - _over_seeds(than)
        return Interval(
            float(np.mean(list(better.values.values())) - np.mean(list(than.values.values()))),
            *_limits(images, scatter),
            seeds=min(len(side.values) for side in sides),
            seed_deviation=float(np.linalg.norm(known)) if len(known) == 2 else None,
            image_deviation=float(np.std(images)),
        )
    pairs = Replicates(
        values={seed: better.values[seed] - than.values[seed] for seed in common},
        resampled={seed: better.resampled[seed] - than.resampled[seed] for seed in common},
    )
    return mean_interval(pairs)


def _over_seeds(one: Replicates) -> np.ndarray:
    """(B,) mean over seeds of each replicate."""
    return np.mean(list(one.resampled.values()), axis=0)


def _seed_deviation(one: Replicates) -> float | None:
    return float(np.std(list(one.values.values()), ddof=1)) if len(one.values) > 1 else None


def _image_deviations(one: Replicates) -> tuple[float, float]:
    """Standard deviations over resampled images of what all seeds share, and of what each has for itself.

    The mean of n seeds has the variance shared^2 + own^2 / n. The covariance of two seeds is what they share. Of a
    single seed all counts as shared.
    """
    covariance = np.atleast_2d(np.cov(list(one.resampled.values()), bias=True))
    seeds = len(covariance)
    if seeds == 1:
        return float(covariance[0, 0] ** 0.5), 0.0
    total = np.trace(covariance)
    shared = max((covariance.sum() - total) / (seeds * (seeds - 1)), 0.0)
    return float(shared**0.5), float(max(total / seeds - shared, 0.0) ** 0.5)


def _limits(images: np.ndarray, scatter: Sequence[tuple[float | None, int]]) -> tuple[float, float]:
    """The 2.5 % and the 97.5 % quantile of a mean, for the choice of images and of seeds.

    The seeds' deviation is that of their mAP, in which those images had a part that are resampled too: what depends
    on seed and image together counts twice, and the interval is somewhat too wide rather than too narrow.

    Args:
        images: (B,) the mean on resampled images.
        scatter: Of each detector that seeds make scatter, their standard deviation (None: one seed) and their number.
    """
    sums = images
    for deviation, seeds in scatter:
        if deviation is None:
            continue
        # Every replicate with every value of Student's distribution, at evenly spaced probabilities: drawing pairs
        # would make the limits, and verdicts near 0, depend on the draw.
        student = stdtrit(seeds - 1, _probabilities(QUANTILES)) * deviation / seeds**0.5
        few = sums if len(sums) <= QUANTILES else np.quantile(sums, _probabilities(QUANTILES), method="hazen")
        sums = np.add.outer(few, student).ravel()
    # Value i of B, in order, stands for the quantile (i + 0.5) / B.
    low, high = np.quantile(sums, [0.025, 0.975], method="hazen")
    return float(low), float(high)


def _probabilities(number: int) -> np.ndarray:
    return (np.arange(number) + 0.5) / number
