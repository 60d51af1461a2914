"""Mean weights of several teachers at the candidates of each class, for the log."""

from __future__ import annotations

from collections.abc import Sequence

from lad.methods.specialists.classes import KnownClasses
from lad.methods.specialists.queries import Queries

import torch
from mmdet.utils import reduce_mean
from torch import Tensor, nn


class MeanWeights(nn.Module):
    """Collects the weights of a step's candidates, and names their means.

    A class without candidates in a step keeps its last mean: a logged 0 would lower the averages of the log.

    Args:
        known: Which classes each teacher knows, and the names.
        log_classes: Whether there is a mean for each class beside that of all candidates.

    Attributes:
        last: (M, C + 1) the last means, of all candidates in the last column.
    """

    last: Tensor
    _sums: Tensor

    def __init__(self, known: KnownClasses, log_classes: bool) -> None:
        super().__init__()
        teachers, classes = (_without_loss(names) for names in (known.teachers, known.classes))
        #: Row and column of each mean by its name.
        self.places = {f"{teacher}.weight": (row, len(classes)) for row, teacher in enumerate(teachers)}
        if log_classes:
            for row, knows in enumerate(known.known.tolist()):
                self.places |= {
                    f"{teachers[row]}.weight.{name}": (row, column)
                    for column, name in enumerate(classes)
                    if knows[column]
                }
        # Before the first step: alike for all that know a class.
        alike = known.known / known.known.sum(dim=0)
        self.register_buffer("last", torch.cat([alike, alike.mean(dim=1, keepdim=True)], dim=1))
        #: (M + 1, C) sums of the weights, and the number of candidates.
        self.register_buffer("_sums", torch.zeros(len(teachers) + 1, len(classes)), persistent=False)

    @torch.no_grad()
    def add(self, weights: Tensor, queries: Queries) -> None:
        """Add the weights (n, M, K) of the candidates of queries; those of background are left out.

        So are those that no teacher knows.
        """
        rows = torch.cat([weights, queries.known.any(dim=1, keepdim=True).to(weights.dtype)], dim=1)
        num_rows, num_classes = self._sums.shape
        sums = rows.new_zeros(num_classes + 1, num_rows)
        sums.index_add_(0, queries.classes.flatten(), rows.transpose(1, 2).flatten(0, 1))
        self._sums.add_(sums[:num_classes].T)

    @torch.no_grad()
    def logged(self) -> dict[str, Tensor]:
        """The means over all processes by their names, ``TEACHER.weight.CLASS`` and ``TEACHER.weight``.

        What was added is forgotten. Every process has to call it equally often.
        """
        sums = reduce_mean(self._sums)
        sums = torch.cat([sums, sums.sum(dim=1, keepdim=True)], dim=1)
        totals, counts = sums[:-1], sums[-1]
        self.last.copy_(torch.where(counts > 0, totals / counts, self.last))
        self._sums.zero_()
        means = self.last.clone()
        return {name: means[row, column] for name, (row, column) in self.places.items()}


def _without_loss(names: Sequence[str]) -> list[str]:
    """Names, or numbers in place of those for which MMEngine would add what is logged to the loss ('dental floss')."""
    return [str(number) if "loss" in name else name for number, name in enumerate(names)]
