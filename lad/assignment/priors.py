"""Anchors shared by all images of a batch, with the level and cell of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from mmdet.models.task_modules import AnchorGenerator
from torch import Tensor


@dataclass(frozen=True)
class PriorGrid:
    """Anchors of every level in MMDetection's order: by level, row, column, base anchor.

    Attributes:
        anchors: (P, 4) xyxy in pixels.
        level: (P,) int64, the level of each anchor.
        row, column: (P,) int64, its cell in that level.
        sizes: (height, width) of each level in cells.
        strides: (horizontal, vertical) of each level in pixels.
        per_cell: Base anchors of a cell in each level.
    """

    anchors: Tensor
    level: Tensor
    row: Tensor
    column: Tensor
    sizes: tuple[tuple[int, int], ...]
    strides: tuple[tuple[int, int], ...]
    per_cell: tuple[int, ...]

    @property
    def num_levels(self) -> int:
        """Number of feature levels."""
        return len(self.sizes)

    def sizes_for(self, shape: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Size of each level, (height, width) in cells, for an image padded to ``shape`` alone."""
        return tuple(
            (min(ceil(shape[0] / stride[1]), size[0]), min(ceil(shape[1] / stride[0]), size[1]))
            for stride, size in zip(self.strides, self.sizes, strict=True)
        )

    def inside(self, batch_img_metas: Sequence[dict], allowed_border: int) -> Tensor:
        """Mask of the anchors that are used in each image, (N, P) bool, by the rule of ``AnchorHead``.

        An anchor's cell must begin within the image's ``pad_shape``; with ``allowed_border >= 0`` the anchor may
        reach at most that many pixels beyond ``img_shape``.
        """
        device = self.anchors.device
        limits = [self.sizes_for(meta["pad_shape"]) for meta in batch_img_metas]
        if all(limit == self.sizes for limit in limits):
            inside = torch.ones(len(limits), len(self.anchors), dtype=torch.bool, device=device)
        else:
            cells = torch.tensor(limits).to(device, non_blocking=True)[:, self.level]  # (N, P, 2)
            inside = (self.row < cells[..., 0]) & (self.column < cells[..., 1])
        if allowed_border >= 0:
            shapes = torch.tensor([meta["img_shape"][:2] for meta in batch_img_metas], dtype=torch.float32)
            shapes = shapes.to(device, non_blocking=True)[:, :, None] + allowed_border  # (N, 2, 1)
            left_top = (self.anchors[:, :2] >= -allowed_border).all(dim=1)
            inside = (
                inside & left_top & (self.anchors[:, 2] < shapes[:, 1]) & (self.anchors[:, 3] < shapes[:, 0])
            )
        return inside


def prior_grid(
    generator: AnchorGenerator, sizes: Sequence[tuple[int, int]], device: torch.device | str
) -> PriorGrid:
    """Generate the anchors of feature maps of given ``sizes`` (height, width in cells), once for a batch.

    Raises:
        ValueError: the number of ``sizes`` is not that of the generator's levels.
    """
    sizes = tuple((int(height), int(width)) for height, width in sizes)
    if len(sizes) != generator.num_levels:
        raise ValueError(f"{len(sizes)} feature levels for an anchor generator of {generator.num_levels}")
    anchors = torch.cat(generator.grid_priors(list(sizes), device=device))
    per_cell = generator.num_base_priors
    counts = [height * width * base for (height, width), base in zip(sizes, per_cell, strict=True)]
    starts = [sum(counts[:level]) for level in range(len(counts))]
    table = torch.tensor([counts, starts, per_cell, [width for _, width in sizes]]).to(
        device, non_blocking=True
    )
    total = sum(counts)
    level = torch.arange(len(counts), device=device).repeat_interleave(table[0], output_size=total)
    cell = (torch.arange(total, device=device) - table[1][level]) // table[2][level]
    width = table[3][level]
    return PriorGrid(
        anchors=anchors,
        level=level,
        row=cell // width,
        column=cell % width,
        sizes=sizes,
        strides=tuple(tuple(stride) for stride in generator.strides),
        per_cell=tuple(per_cell),
    )
