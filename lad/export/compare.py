"""Whether two lists of detections of an image are the same."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np

#: Largest difference of scores, and of coordinates in pixels (with 1e-5 of the coordinate in addition).
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Detections:
    """Detections of one image.

    Attributes:
        boxes: (N, 4) x1, y1, x2, y2 in pixels.
        scores: (N,).
        labels: (N,).
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def best(self, num: int) -> Detections:
        """Those of the ``num`` highest scores."""
        order = np.argsort(-self.scores, kind="stable")[:num]
        return Detections(self.boxes[order], self.scores[order], self.labels[order])


@dataclass(frozen=True)
class Difference:
    """How detections differ.

    Attributes:
        count: Compared detections.
        unmatched: Those of either list that the other has not.
        box: Largest difference of a coordinate of matched boxes, in pixels.
        score: Largest difference of matched scores.
    """

    count: int
    unmatched: int
    box: float
    score: float

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            self.count + other.count,
            self.unmatched + other.unmatched,
            max(self.box, other.box),
            max(self.score, other.score),
        )

    def or_worse(self, other: Difference) -> Difference:
        """Of the same detections, found twice: each is counted once, with the larger differences of both times."""
        return Difference(*map(max, astuple(self), astuple(other)))


def compare(expected: Detections, found: Detections, tolerance: float = TOLERANCE) -> Difference:
    """Match each expected detection with the found one of its class and score whose box is nearest.

    Where both lists are equally long, the last of them may differ: which of two equal scores is the hundredth is
    chance. Their scores must be equal all the same.

    Args:
        expected: The reference.
        found: What is compared with it.
        tolerance: Largest difference of scores and coordinates.
    """
    left = np.ones(len(found), bool)
    box = score = 0.0
    missing = []
    for own, (corners, value, label) in enumerate(
        zip(expected.boxes, expected.scores, expected.labels, strict=True)
    ):
        same = left & (found.labels == label) & (np.abs(found.scores - value) <= tolerance)
        apart = np.abs(found.boxes - corners).max(1, initial=0)
        allowed = tolerance + 1e-5 * np.abs(corners).max()
        nearest = int(np.where(same, apart, np.inf).argmin()) if same.any() else -1
        if nearest < 0 or apart[nearest] > allowed:
            missing.append(own)
            continue
        left[nearest] = False
        box = max(box, float(apart[nearest]))
        score = max(score, float(abs(found.scores[nearest] - value)))
    unmatched = [*expected.scores[missing], *found.scores[left]]
    if len(expected) == len(found) and unmatched:
        lowest = min(expected.scores.min(), found.scores.min())
        unmatched = [value for value in unmatched if value - lowest > tolerance]
    return Difference(len(expected), len(unmatched), box, score)
