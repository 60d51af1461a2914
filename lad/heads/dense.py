"""Outputs of dense heads as flat tensors over the priors of a batch: class logits, scores and boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from mmdet.models.dense_heads import AutoAssignHead, TOODHead, YOLOXHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from torch import Tensor

#: Kind of a score: a logit, or a probability in [0, 1].
Scores = Literal["logits", "probabilities"]

# Distance from 0 and 1 to which probabilities are clamped before they become logits, whose gradient would otherwise
# grow without bound.
LOGIT_EPS = 1e-6


@dataclass(frozen=True)
class DensePredictions:
    """Scores and decoded boxes of all priors of a batch, in the form in which assigners take them, in new memory.

    Attributes:
        scores: (N, P, C), logits or probabilities.
        bboxes: (N, P, 4) xyxy in pixels.
        sizes: (height, width) of each level in cells.
    """

    scores: Tensor
    bboxes: Tensor
    sizes: tuple[tuple[int, int], ...]

    def convert_scores(self, source: Scores, target: Scores) -> DensePredictions:
        """Convert scores of the kind ``source`` to the kind ``target``."""
        if source == target:
            return self
        convert = torch.sigmoid if target == "probabilities" else probability_logit
        return DensePredictions(convert(self.scores), self.bboxes, self.sizes)


def flatten_levels(levels: Sequence[Tensor], channels: int) -> Tensor:
    """Flatten a head's (N, A * channels, H, W) of each level to (N, P, channels); always new memory."""
    # Views until here, so that `cat` makes the only copy, and the backward pass none.
    cells = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
    return cells.reshape(len(cells), -1, channels)


def join_levels(levels: Sequence[Tensor], channels: int) -> Tensor:
    """Join a head's (N, A * channels, H, W) of each level to (N * A, L, channels), L the cells of all levels.

    The same rows as :func:`flatten_levels` gives, in another order and without moving the channels of a prior next to
    each other in memory: a view of (N * A, channels, L). For losses of single elements, to which their order is
    nothing; neither this copy nor the one of its gradient transposes.
    """
    maps = torch.cat([level.flatten(2) for level in levels], dim=2)
    return maps.unflatten(1, (-1, channels)).flatten(0, 1).transpose(1, 2)


def join_priors(priors: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Put what is known of each prior, (N, P), into the order of :func:`join_levels`, (N * A, L).

    Args:
        priors: In MMDetection's order: level by level, cell by cell, the A priors of a cell together.
        sizes: (height, width) of each level in cells.
    """
    cells = [height * width for height, width in sizes]
    per_cell = priors.shape[1] // sum(cells)
    levels = priors.split([per_cell * count for count in cells], dim=1)
    joined = [level.unflatten(1, (-1, per_cell)).transpose(1, 2) for level in levels]
    return torch.cat(joined, dim=2).flatten(0, 1)


def level_sizes(levels: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    """(height, width) in cells of each level of a head's outputs."""
    return tuple((level.shape[-2], level.shape[-1]) for level in levels)


def class_logits(
    head: BaseDenseHead,
    outputs: Sequence[Any],
    join: Callable[[Sequence[Tensor], int], Tensor] = flatten_levels,
) -> Tensor:
    """Logits (N, P, channels) of the class scores by which a dense head ranks classes.

    TOOD, COP and IOP heads return probabilities, which are converted to float32 logits. YOLOX and AutoAssign predict an
    objectness beside the classes and multiply the two probabilities: the result is the logit of the product.

    Args:
        head: A dense head whose first output are the class scores of each level.
        outputs: What its ``forward`` returned for the batch.
        join: The order of the priors: :func:`flatten_levels`, or :func:`join_levels` for (N * A, L, channels).
    """
    scores = join(outputs[0], head.cls_out_channels)
    if isinstance(head, (YOLOXHead, AutoAssignHead)):
        return product_logit(scores, join(outputs[2], 1))
    if isinstance(head, TOODHead) or getattr(head, "predicts_probabilities", False):
        return probability_logit(scores)
    return scores


def probability_logit(probabilities: Tensor) -> Tensor:
    """Logit log(p / (1 - p)) of probabilities clamped to [1e-6, 1 - 1e-6]; float32, where 1 - 1e-6 is less than 1."""
    return torch.logit(probabilities.float(), eps=LOGIT_EPS)


def product_logit(first: Tensor, second: Tensor) -> Tensor:
    """Logit of sigmoid(first) * sigmoid(second), in float32.

    1 / (p q) - 1 = (1 + e^-a)(1 + e^-b) - 1 = e^-a + e^-b + e^(-a - b), and the logit is minus its logarithm: no
    probability is formed, so that none is rounded to 0 or 1.
    """
    first, second = torch.broadcast_tensors(-first.float(), -second.float())
    return -torch.stack([first, second, first + second]).logsumexp(dim=0)
