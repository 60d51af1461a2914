"""Records of PAA's candidates and their losses, and the scorer that reads them instead of running the teacher.

A record holds the candidates that PAA's top-k selects for each object, with the teacher's loss of each: 8 bytes a
candidate, at most 360 an object for five levels and a top-k of 9. Everything after the selection is computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from lad.assignment.candidates import PAACandidates
from lad.assignment.paa import PAAReassignment
from lad.assignment.priors import PriorGrid
from lad.heads.batched_paa_head import PAAScorer

import numpy as np
import torch
from torch import Tensor

RECORD = np.dtype([("index", "<u4"), ("loss", "<f4")])


class CachedScorer:
    """Scores candidates from records, and with the teacher only those of images without a record.

    Args:
        records: For each image its record, or None.
        metas: Metadata of each image, with ``pad_shape``.
        scorer: The teacher's scorer of the images without a record, in their order; None if there are none.
        device: Where to compute.
    """

    def __init__(
        self,
        records: Sequence[bytes | None],
        metas: Sequence[dict],
        scorer: PAAScorer | None,
        device: torch.device,
    ) -> None:
        self.records = records
        self.metas = metas
        self.scorer = scorer
        self.device = device
        self.missing = [image for image, record in enumerate(records) if record is None]

    @property
    def finite(self) -> Tensor:
        """(N,) bool: whether an image's predictions are finite; those of records were."""
        finite = torch.ones(len(self.records), dtype=torch.bool, device=self.device)
        if self.scorer is not None:
            finite[torch.tensor(self.missing).to(self.device, non_blocking=True)] = self.scorer.finite
        return finite

    @torch.no_grad()
    def losses(self, candidates: PAACandidates) -> Tensor:
        """(K,) float32: recorded losses, infinite for candidates that the top-k did not select; else computed."""
        num_priors = len(candidates.grid.anchors)
        places, values = [], []
        for image, record in enumerate(self.records):  # on the host, where the records are
            if record is not None:
                entries = np.frombuffer(record, dtype=RECORD)
                index = to_batch_index(entries["index"], candidates.grid, self.metas[image]["pad_shape"])
                places.append(index + image * num_priors)
                values.append(entries["loss"])
        known = torch.full((len(self.records) * num_priors,), torch.inf, device=self.device)
        if places:
            place = torch.from_numpy(np.concatenate(places)).to(self.device, non_blocking=True)
            known[place] = torch.from_numpy(np.concatenate(values)).to(self.device, non_blocking=True)
        losses = known[candidates.index]
        if self.scorer is None:
            return losses
        # Every candidate is scored, those of images with a record by another image's predictions and then discarded:
        # selecting them would wait for the device.
        rows = torch.zeros(len(self.records), dtype=torch.long)
        rows[self.missing] = torch.arange(len(self.missing))
        is_missing = torch.tensor([record is None for record in self.records]).to(
            self.device, non_blocking=True
        )
        images = candidates.index // num_priors
        indices = rows.to(self.device, non_blocking=True)[images] * num_priors + candidates.index % num_priors
        return torch.where(is_missing[images], self.scorer.losses(candidates, indices), losses)


def encode_records(
    candidates: PAACandidates, assignment: PAAReassignment, metas: Sequence[dict], images: Sequence[int]
) -> list[bytes]:
    """Encode the records of some images of a batch; fetches the selection from the device once."""
    if len(candidates) == 0:
        return [b"" for _ in images]
    index = candidates.index[assignment.candidate].cpu().numpy()
    loss = assignment.loss.float().cpu().numpy()
    valid = assignment.valid.cpu().numpy()
    rows = list(pairwise([0, *accumulate(candidates.gt_counts)]))
    num_priors = len(candidates.grid.anchors)
    records = []
    for image in images:
        of_image = slice(*rows[image])
        selected = valid[of_image]
        entries = np.empty(int(selected.sum()), dtype=RECORD)
        prior = index[of_image][selected] - image * num_priors
        entries["index"] = to_image_index(prior, candidates.grid, metas[image]["pad_shape"])
        entries["loss"] = loss[of_image][selected]
        records.append(entries.tobytes())
    return records


def to_image_index(index: np.ndarray, grid: PriorGrid, shape: tuple[int, int]) -> np.ndarray:
    """Convert anchor indices of a batch to those of an image padded to ``shape`` alone, independent of the batch."""
    return _convert(index, grid.sizes, grid.sizes_for(shape), grid.per_cell)


def to_batch_index(index: np.ndarray, grid: PriorGrid, shape: tuple[int, int]) -> np.ndarray:
    """Inverse of :func:`to_image_index`."""
    return _convert(index.astype(np.int64), grid.sizes_for(shape), grid.sizes, grid.per_cell)


def _convert(
    index: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    wanted: Sequence[tuple[int, int]],
    per_cell: Sequence[int],
) -> np.ndarray:
    if tuple(sizes) == tuple(wanted):
        return index
    starts, wanted_starts = (
        np.array(
            [0, *accumulate(height * width * base for (height, width), base in zip(s, per_cell, strict=True))]
        )
        for s in (sizes, wanted)
    )
    level = np.searchsorted(starts, index, side="right") - 1
    base = np.array(per_cell)[level]
    cell, anchor = np.divmod(index - starts[level], base)
    row, column = np.divmod(cell, np.array(sizes)[level, 1])
    return wanted_starts[level] + (row * np.array(wanted)[level, 1] + column) * base + anchor
