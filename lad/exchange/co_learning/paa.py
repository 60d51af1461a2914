"""Co-learning of PAA heads: one mixture for each object, fitted to the losses of its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lad.assignment.candidates import PAACandidates, find_candidates
from lad.assignment.paa import PAAReassignment
from lad.assignment.priors import prior_grid
from lad.errors import UnsupportedError
from lad.exchange.co_learning.base import CoLearning
from lad.exchange.seams import check_same_priors
from lad.exchange.switching import Membership, RoleSwitch, Separation, Switch, SwitchFunction
from lad.heads.batched_paa_head import BatchedPAAHead, PAAPredictions, PAAScorer

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import SampleList
from torch import Tensor


class PAACoLearning(CoLearning):
    """Shared assignment of PAA heads: each scores the same candidates, and one mixture an object serves all."""

    works_with = "BatchedPAAHead and its COP and IOP variants"

    def fits(self, head: BaseDenseHead) -> bool:  # noqa: D102
        return isinstance(head, BatchedPAAHead)

    def check(self, heads: Sequence[BatchedPAAHead], switch: Switch) -> None:  # noqa: D102
        first, *others = heads
        for other in others:
            check_same_priors(first.prior_generator, other.prior_generator)
            for name in ("num_classes", "topk", "covariance_type", "train_cfg"):
                own, theirs = getattr(first, name), getattr(other, name)
                if own != theirs:
                    raise UnsupportedError(
                        f"CoLearningAssignment: bbox_head.{name} is {own!r} in one network and {theirs!r} in another: "
                        "one assignment serves all; set it alike."
                    )

    def losses(  # noqa: D102
        self,
        heads: Sequence[BatchedPAAHead],
        outputs: Sequence[Any],
        data_samples: SampleList,
        switch: SwitchFunction,
    ) -> tuple[list[dict[str, Tensor]], RoleSwitch | None]:
        gt_instances, ignored, metas = unpack_gt_instances(data_samples)
        pairs = list(zip(heads, outputs, strict=True))
        predictions = [PAAPredictions.from_levels(head, *output) for head, output in pairs]
        first, cls_scores = heads[0], outputs[0][0]
        sizes = [level.shape[-2:] for level in cls_scores]
        grid = prior_grid(first.prior_generator, sizes, cls_scores[0].device)
        assigned = first.pre_assign(grid, gt_instances, metas, ignored)
        finite = torch.stack([prediction.finite for prediction in predictions]).all(0)
        candidates = find_candidates(grid, assigned, gt_instances, metas, finite)
        scored = torch.stack(
            [PAAScorer(head, own).losses(candidates) for head, own in zip(heads, predictions, strict=True)]
        )
        roles = None
        if len(candidates) > 0:
            roles = switch(
                scored,
                membership(candidates),
                lambda number: separation(first.reassign(scored[number], candidates)),
            )
            scored = scored.gather(0, roles.teacher[None])
        assignment = first.reassign(scored[0], candidates)
        losses = [
            head.assigned_losses(own, candidates, assignment)
            for head, own in zip(heads, predictions, strict=True)
        ]
        return losses, roles


def membership(candidates: PAACandidates) -> Membership:
    """Image, ground truth and level of PAA's candidates."""
    return Membership(
        image=candidates.index // len(candidates.grid.anchors),
        gt=candidates.gt_index,
        level=candidates.level,
        num_images=len(candidates.gt_counts),
        num_gts=candidates.num_gts,
        num_levels=candidates.grid.num_levels,
    )


def separation(assignment: PAAReassignment) -> Separation:
    """The mixtures that a network fits to the losses of its ground truths' candidates."""
    mixture = assignment.mixture
    # A single candidate has two equal components, as far as it has any.
    return Separation(mixture.means, mixture.variances, assignment.valid.sum(1) > 1)
