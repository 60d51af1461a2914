"""Batched probabilistic anchor assignment (PAA), as a fixed sequence of tensor operations.

Kim & Lee, "Probabilistic Anchor Assignment with IoU Prediction for Object Detection", ECCV 2020,
arXiv 2007.08103. MMDetection's ``PAAHead.paa_reassign`` loops over images, ground truths and levels and waits
for the device at every step; here the sizes of all tensors follow from numbers that are already on the host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lad.assignment.gmm import TwoGaussians, fit_two_gaussians

import torch
from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """The candidates selected for each of G ground truths, in M = num_levels * topk slots.

    Attributes:
        candidate: (G, M) long. Index into the K candidates, in ascending order of loss; 0 in empty slots.
        loss: (G, M) float64. The candidates' losses, exactly; 0 in empty slots.
        valid: (G, M) bool. Whether the slot holds a candidate; filled slots come first.
    """

    candidate: Tensor
    loss: Tensor
    valid: Tensor


@dataclass(frozen=True)
class PAAReassignment:
    """Result of PAA for G ground truths with M = num_levels * topk slots each.

    Attributes:
        candidate: (G, M) long. Index into the K candidates, in ascending order of loss; 0 in empty slots.
        loss: (G, M) float64. The candidates' losses, exactly; 0 in empty slots.
        valid: (G, M) bool. Whether the slot holds a candidate; filled slots come first.
        positive: (G, M) bool. The candidates that become positive samples of their ground truth. All other
            candidates, selected or not, become background.
        mixture: The mixture fitted to each row's losses.
    """

    candidate: Tensor
    loss: Tensor
    valid: Tensor
    positive: Tensor
    mixture: TwoGaussians


def _sort_within_cells(losses: Tensor, cell: Tensor, num_cells: int) -> tuple[Tensor, Tensor]:
    """Sort candidates stably by cell, then loss; returns their order and the cells in that order, both (K,).

    Cells are in [-1, num_cells].
    """
    if losses.dtype == torch.float64:
        by_loss = torch.sort(losses, stable=True).indices
        cells, by_cell = torch.sort(cell[by_loss], stable=True)
        return by_loss[by_cell], cells
    # The bits of a float32, read as an integer, order as the number does once those of negative numbers are
    # inverted: cell and loss fit one 64-bit key exactly, and one integer sort is three times as fast as two.
    bits = (losses.float() + 0.0).view(torch.int32)  # adding 0 makes -0 equal to it
    bits = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() + 2**31
    on_cpu = losses.device.type == "cpu"
    cell_bits, index_bits = (num_cells + 1).bit_length(), len(losses).bit_length() if on_cpu else 0
    if on_cpu and cell_bits + 32 + index_bits <= 64:
        # If the index fits in as well, sorting the keys alone suffices, and numpy's vectorised sort, which returns
        # no indices and is not stable, is several times as fast again. Offsetting by half the range uses the sign bit.
        half = 2 ** (cell_bits - 1)
        keys = ((cell + (1 - half)) << (32 + index_bits)) + (bits << index_bits) + torch.arange(len(losses))
        keys.numpy().sort()
        return keys & (2**index_bits - 1), (keys >> (32 + index_bits)) + (half - 1)
    keys, order = torch.sort((cell << 32) + bits, stable=True)
    return order, keys >> 32


@torch.no_grad()
def select_candidates(
    losses: Tensor, gt_index: Tensor, level: Tensor, num_gts: int, num_levels: int, topk: int
) -> Selection:
    """Select each ground truth's `topk` candidates of smallest loss from each level, sorted by loss.

    Equal losses keep the order of the candidates: of two candidates of one ground truth and level the earlier
    is taken first, and within a row a lower level, then an earlier candidate, comes first. Comparisons are
    exact in the dtype of `losses`. A row with no candidates is all empty slots.

    Args:
        losses: (K,) of any float dtype, one loss for each candidate of the whole batch. Must not be NaN or
            infinite (a NaN sorts after every number, infinities are sorted as numbers; the mixture fitted to
            them is undefined).
        gt_index: (K,) long, the ground truth each candidate is assigned to, counted through the whole batch.
            A candidate whose index is outside [0, num_gts) is never selected, so callers may pad.
        level: (K,) long in [0, num_levels), the pyramid level of each candidate.
        num_gts: Number of ground truths in the batch, G.
        num_levels: Number of pyramid levels.
        topk: Most candidates selected from one level for one ground truth; at least 1.

    Returns:
        The selection, on the device of `losses`.

    Raises:
        ValueError: if the three tensors are not of one length, `losses` is not floating point or a count is
            out of range.
    """
    if losses.dim() != 1 or losses.shape != gt_index.shape or losses.shape != level.shape:
        raise ValueError(
            f"losses, gt_index and level must share one (K,) shape, got {losses.shape}, {gt_index.shape} and "
            f"{level.shape}"
        )
    if not losses.is_floating_point():
        raise ValueError(f"losses must be floating point, got {losses.dtype}")
    if num_gts < 0 or num_levels < 1 or topk < 1:
        raise ValueError(
            f"need num_gts >= 0, num_levels >= 1, topk >= 1; got {num_gts}, {num_levels}, {topk}"
        )
    num_cells = num_gts * num_levels
    if num_cells >= 2**31 - 1:
        raise ValueError(f"num_gts * num_levels must be below 2**31 - 1, got {num_cells}")
    num_slots = num_levels * topk
    count = losses.shape[0]
    device = losses.device

    # A cell is one level of one ground truth. Candidates of no ground truth get an index beyond all cells.
    cell = (gt_index * num_levels + level).clamp(-1, num_cells)
    order, cells = _sort_within_cells(losses, cell, num_cells)
    bounds = torch.searchsorted(cells, torch.arange(num_cells + 1, device=device))
    position = bounds[:-1, None] + torch.arange(topk, device=device)
    taken = position < bounds[1:, None]
    # Empty slots point at an extra candidate of infinite loss, which sorts last in its row.
    order = torch.cat((order, order.new_full((1,), count)))
    picked = order[position.masked_fill_(~taken, count)].view(num_gts, num_slots)
    picked_loss = torch.cat((losses, losses.new_full((1,), math.inf)))[picked].double()
    loss, by_loss = torch.sort(picked_loss, dim=1, stable=True)
    candidate = picked.gather(1, by_loss)
    valid = candidate < count
    return Selection(candidate.masked_fill_(~valid, 0), loss.masked_fill_(~valid, 0.0), valid)


def _without_empty_slots(selection: Selection) -> Selection:
    """Drop the slots that are empty for every ground truth: objects rarely have candidates on every level."""
    used = int(selection.valid.any(0).sum())
    return Selection(selection.candidate[:, :used], selection.loss[:, :used], selection.valid[:, :used])


def separate(mixture: TwoGaussians, valid: Tensor, loss: Tensor | None = None) -> Tensor:
    """Separate positives from the other candidates by the fitted mixtures: scheme (c) of Fig. 3 of the PAA paper.

    Of the candidates in component 0 (the one of low losses), in ascending order of loss, all up to and
    including the one of highest density are positive. The first such one counts if several are equally dense;
    MMDetection leaves that to ``torch.topk``.

    Args:
        mixture: Fitted to rows sorted by loss.
        valid: (G, M) bool, which slots hold a candidate.
        loss: (G, M), the losses it was fitted to. If given, equal ones count as equally dense even if the last
            digits of their densities differ, as they may from one place in a tensor to another.

    Returns:
        (G, M) bool, the positives. Rows of fewer than two candidates have none.
    """
    if valid.shape[1] == 0:
        return torch.zeros_like(valid)
    enough = valid.sum(1, keepdim=True) >= 2
    foreground = (mixture.assignment == 0) & valid & enough
    # argmax returns the first of several.
    densest = mixture.log_density.masked_fill(~foreground, -math.inf).argmax(1, keepdim=True)
    if loss is not None:
        equal = (loss == loss.gather(1, densest)) & foreground
        densest = equal.byte().argmax(1, keepdim=True)
    return foreground & (torch.arange(valid.shape[1], device=valid.device) <= densest)


def reassign(
    losses: Tensor,
    gt_index: Tensor,
    level: Tensor,
    *,
    num_gts: int,
    num_levels: int,
    topk: int,
    covariance_type: str = "diag",
) -> PAAReassignment:
    """Decide which candidates of a batch are positive samples, by probabilistic anchor assignment.

    Select, fit, separate: see `select_candidates`, `lad.assignment.gmm.fit_two_gaussians` and `separate` for
    the rules, the handling of ties and the errors. Computed in float64 from the losses as given, where
    MMDetection fits in float32; with its mixtures fitted in float64 the positives are the same, except where
    two numbers compared are equal but for rounding. Such are the densities of two candidates that are component
    0 and far from all others, both then being equally far from their mean: this function takes the lower one,
    MMDetection either that one or both. So is a candidate exactly halfway between the components, as in
    evenly spaced losses: it belongs to component 0 here. And so are the densities of losses that differ by
    far less than the root of ``reg_covar``, 1e-3.

    No gradient flows, and on a device other than the CPU the host never waits.

    Args:
        losses: (K,) of any float dtype, finite, one loss for each candidate of the whole batch.
        gt_index: (K,) long, ground truth of each candidate, counted through the whole batch.
        level: (K,) long in [0, num_levels), the pyramid level of each candidate.
        num_gts: Number of ground truths in the batch, G.
        num_levels: Number of pyramid levels.
        topk: Most candidates taken from one level for one ground truth.
        covariance_type: 'full', 'diag', 'spherical' or 'tied'.

    Returns:
        The reassignment, in M = num_levels * topk slots a ground truth; on a CPU, where reading a count costs nothing,
        in as many as the largest ground truth needs.

    Raises:
        ValueError: as the functions named above.
    """
    selection = select_candidates(losses, gt_index, level, num_gts, num_levels, topk)
    if losses.device.type == "cpu":
        selection = _without_empty_slots(selection)
    mixture = fit_two_gaussians(selection.loss, selection.valid, covariance_type)
    positive = separate(mixture, selection.valid, selection.loss)
    return PAAReassignment(selection.candidate, selection.loss, selection.valid, positive, mixture)
