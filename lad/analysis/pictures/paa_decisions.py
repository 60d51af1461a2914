"""Label assignments of PAA heads, object by object, for drawing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from lad.analysis.pictures.assignment_picture import Candidates, Mixture
from lad.analysis.pictures.decision_parts import (
    Decided,
    Decisions,
    JointDecisions,
    Teacher,
    recording,
    shallow_copy,
    teachers_of,
    to_numpy,
)
from lad.assignment.candidates import PAACandidates, find_candidates
from lad.assignment.paa import PAAReassignment
from lad.assignment.priors import prior_grid
from lad.exchange.co_learning import CoLearning
from lad.exchange.switching import Membership, RoleSwitch, Switch
from lad.heads.batched_paa_head import BatchedPAAHead, PAAPredictions, PAAScorer

import numpy as np
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import SampleList
from torch import Tensor


def decide_paa(head: BaseDenseHead, outputs: Any, samples: SampleList, teacher: Teacher | None) -> Decisions:
    """The assignment of a PAA head from its own losses of candidates, or a teacher's."""
    gt_instances, ignored, metas = unpack_gt_instances(samples)
    predictions = PAAPredictions.from_levels(head, *outputs)
    scorer = PAAScorer(head, predictions)
    if teacher is not None:
        scorer = PAAScorer(teacher.head, PAAPredictions.from_levels(teacher.head, *teacher.outputs))
    sizes = [level.shape[-2:] for level in outputs[0]]
    grid = prior_grid(head.prior_generator, sizes, device=outputs[0][0].device)
    # MMDetection's PAAHead has the same settings and makes the same assignment, image by image.
    assigned = BatchedPAAHead.pre_assign(head, grid, gt_instances, metas, ignored)
    candidates = find_candidates(grid, assigned, gt_instances, metas, scorer.finite & predictions.finite)
    assignment = BatchedPAAHead.reassign(head, scorer.losses(candidates), candidates)
    return _paa_decisions(candidates, assignment)


def _paa_decisions(candidates: PAACandidates, assignment: PAAReassignment) -> Decisions:
    if len(candidates) == 0:
        empty = Candidates(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), np.zeros(0, bool))
        return [(empty,) * count for count in candidates.gt_counts]
    anchors, levels = to_numpy(candidates.anchors), to_numpy(candidates.level)
    index, losses = to_numpy(assignment.candidate), to_numpy(assignment.loss)
    valid, positive = to_numpy(assignment.valid), to_numpy(assignment.positive)
    mixture = assignment.mixture
    means, variances, weights = (
        to_numpy(mixture.means),
        to_numpy(mixture.variances),
        to_numpy(mixture.weights),
    )
    objects = []
    for gt in range(candidates.num_gts):
        slots = valid[gt]
        own, chosen = index[gt][slots], positive[gt][slots]
        objects.append(
            Candidates(
                priors=anchors[own],
                levels=levels[own],
                costs=losses[gt][slots],
                positive=chosen,
                mixture=Mixture(means[gt], np.sqrt(variances[gt]), weights[gt]) if slots.sum() > 1 else None,
                threshold=float(losses[gt][slots][chosen].max()) if chosen.any() else None,
            )
        )
    ends = np.cumsum(candidates.gt_counts)
    return [tuple(objects[end - count : end]) for end, count in zip(ends, candidates.gt_counts, strict=True)]


def decide_paa_jointly(
    co_learning: CoLearning,
    heads: Sequence[BaseDenseHead],
    outputs: Sequence[Any],
    samples: SampleList,
    switch: Switch,
) -> JointDecisions:
    """The assignment that PAA heads share, and the network that decides for each object on each level."""
    first = shallow_copy(heads[0])
    recorded: list[tuple[PAACandidates, PAAReassignment]] = []
    roles: list[tuple[RoleSwitch, Membership]] = []

    def reassign(losses: Tensor, candidates: PAACandidates) -> PAAReassignment:
        recorded.append((candidates, heads[0].reassign(losses, candidates)))
        return recorded[-1][1]

    def stop(*_: Any) -> None:
        raise Decided

    # The last assignment is the shared one; those before are computed for the criterion.
    first.__dict__.update(reassign=reassign, assigned_losses=stop)
    with suppress(Decided):
        co_learning.losses([first, *heads[1:]], outputs, samples, recording(switch, roles))
    candidates, assignment = recorded[-1]
    teacher = teachers_of(roles, candidates.num_gts, candidates.grid.num_levels)
    ends = np.cumsum(candidates.gt_counts)
    return JointDecisions(
        _paa_decisions(candidates, assignment),
        [teacher[end - count : end] for end, count in zip(ends, candidates.gt_counts, strict=True)],
    )
