"""Content of a picture of label assignment: the candidates of each object and which of them are positive."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

#: The curve of the mixture's higher component is drawn at most so many times as high as the other's.
MAX_PEAK_RATIO = 3


@dataclass(frozen=True, eq=False)
class Mixture:
    """Two Gaussians over an object's candidate losses; the first is the better one.

    Attributes:
        means, stds, weights: ``(2,)``; weights sum to 1.
    """

    means: np.ndarray
    stds: np.ndarray
    weights: np.ndarray

    def density(self, values: np.ndarray) -> np.ndarray:
        """The two weighted densities ``(2, N)`` at values ``(N,)``."""
        z = (values - self.means[:, None]) / self.stds[:, None]
        return self.peaks[:, None] * np.exp(-0.5 * z**2)

    @property
    def peaks(self) -> np.ndarray:
        """``(2,)``: the weighted densities at the means."""
        return self.weights / (self.stds * math.sqrt(2 * math.pi))

    def curves(self, values: np.ndarray) -> np.ndarray:
        """Both densities ``(2, N)`` at values ``(N,)``, scaled for drawing: from 0 to 1, each peak at 1 / 3 at least.

        The density of a component of one candidate is so high and narrow that the other would look flat beside it.
        """
        heights = np.maximum(self.peaks / self.peaks.max(), 1 / MAX_PEAK_RATIO)
        return heights[:, None] * self.density(values) / self.peaks[:, None]


@dataclass(frozen=True, eq=False)
class Candidates:
    """The K candidate priors of one object, in the order of their indices.

    Attributes:
        priors: ``(K, 4)``, x1, y1, x2, y2 in px of the image; for points, the cell of the grid.
        levels: ``(K,)``, the feature level, counted from 0.
        costs: ``(K,)``, cost of assigning the prior to the object; infinite where the assigner computes none.
        positive: ``(K,)`` bool.
        mixture: Mixture that the costs were split by; None for assigners without.
        threshold: Largest cost of a positive, as set by the assigner; None for assigners without.
    """

    priors: np.ndarray
    levels: np.ndarray
    costs: np.ndarray
    positive: np.ndarray
    mixture: Mixture | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        count = len(self.priors)
        for name in ("levels", "costs", "positive"):
            if getattr(self, name).shape != (count,):
                raise ValueError(f"{count} priors with {name} of shape {getattr(self, name).shape}")

    @property
    def centres(self) -> np.ndarray:
        """``(K, 2)``, x and y in px."""
        return (self.priors[:, :2] + self.priors[:, 2:]) / 2

    @property
    def positives(self) -> set[tuple[float, ...]]:
        """The positives as level and box, for comparison with another network's."""
        rows = np.column_stack([self.levels, self.priors.round(2)])[self.positive]
        return {tuple(row) for row in rows.tolist()}

    def among(self, positives: set[tuple[float, ...]]) -> np.ndarray:
        """Mask ``(K,)`` of the priors that are in a set of :attr:`positives`."""
        rows = np.column_stack([self.levels, self.priors.round(2)]).tolist()
        return np.array([tuple(row) in positives for row in rows], dtype=bool)

    def cheapest(self, count: int) -> Candidates:
        """The positives and the ``count`` cheapest of all."""
        kept = self.positive.copy()
        kept[np.argsort(self.costs, kind="stable")[:count]] = True
        return replace(
            self,
            priors=self.priors[kept],
            levels=self.levels[kept],
            costs=self.costs[kept],
            positive=self.positive[kept],
        )


@dataclass(frozen=True, eq=False)
class Panel:
    """Assignment of one network, or of several jointly, for the G objects of an image.

    Attributes:
        title: Which network.
        objects: G sets of candidates.
        taught_by: For each object and level the name of the network that taught it, None where none did; None as a
            whole where networks do not teach each other.
    """

    title: str
    objects: tuple[Candidates, ...]
    taught_by: tuple[tuple[str | None, ...], ...] | None = None


@dataclass(frozen=True, eq=False)
class AssignmentPicture:
    """An image, its objects and the assignments of several networks.

    Attributes:
        name: The image's name.
        image: ``(H, W, 3)`` uint8, RGB.
        bboxes: ``(G, 4)``, x1, y1, x2, y2 in px of the image.
        labels: G class names.
        strides: Stride of each level, px.
        cost: Description of the costs.
        panels: Panels in the order of drawing.
        changed: Indices of two panels: where the second differs from the first, it is marked in the second; None for
            no comparison.
    """

    name: str
    image: np.ndarray
    bboxes: np.ndarray
    labels: tuple[str, ...]
    strides: tuple[int, ...]
    cost: str
    panels: tuple[Panel, ...]
    changed: tuple[int, int] | None = None

    @property
    def num_changes(self) -> np.ndarray:
        """``(G,)``: number of priors that differ between the compared panels, or else the first two."""
        if len(self.panels) < 2:
            return np.zeros(len(self.bboxes), dtype=int)
        before, after = (self.panels[number].objects for number in self.changed or (0, 1))
        changes = [len(a.positives ^ b.positives) for a, b in zip(before, after, strict=True)]
        return np.array(changes, dtype=int)

    def most_changed(self, count: int) -> list[int]:
        """Indices of the ``count`` objects with the most changes, in ascending order."""
        return sorted(np.argsort(-self.num_changes, kind="stable")[:count].tolist())
