"""Label assignments of heads for a batch, object by object, for drawing.

They are computed by the code that training uses. Losses are not computed, so no collective operation runs, and the
heads are left unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lad.analysis.pictures.assignment_picture import Candidates, Mixture
from lad.assignment.candidates import PAACandidates, find_candidates
from lad.assignment.paa import PAAReassignment
from lad.assignment.priors import prior_grid
from lad.errors import UnsupportedError
from lad.exchange.co_learning import CoLearning
from lad.exchange.co_learning.assigner import Matching, SharedDecisions, match_by_alignment, match_by_cost
from lad.exchange.replay import AssignerCall, replace_assigners
from lad.exchange.seams import SEAMS, AssignerSeam, PAASeam, Seam
from lad.exchange.seams.assigner import TeacherPredictions
from lad.exchange.switching import Membership, RoleSwitch, Separation, Switch
from lad.heads.batched_paa_head import BatchedPAAHead, PAAPredictions, PAAScorer

import numpy as np
import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.task_modules import AnchorGenerator, AssignResult, ATSSAssigner, TaskAlignedAssigner
from mmdet.models.task_modules.assigners.atss_assigner import bbox_center_distance
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import SampleList
from mmengine.structures import InstanceData
from torch import Tensor

#: Labels of the costs of each family of heads.
COSTS = {
    "PAASeam": "loss of the candidate as a positive",
    "TOODSeam": r"$1 - s^\alpha u^\beta$  (s score, u IoU)",
    "RTMDetSeam": "matching cost: class + IoU + distance",
    "YOLOXSeam": "SimOTA cost: class + IoU",
    "DDODSeam": r"$1 - s^{1-\alpha} u^\alpha$ for the classes (s score, u IoU)",
}

# Number of candidates drawn of an object whose assigner uses every prior in its box.
_SHOWN = 45

#: For each image of a batch its objects' candidates.
Decisions = list[tuple[Candidates, ...]]


@dataclass(frozen=True)
class Teacher:
    """Teacher whose predictions replace a head's own.

    Attributes:
        seam: The student's seam, with the teacher's.
        head: The teacher's head.
        outputs: What it returned for the batch.
    """

    seam: Seam
    head: BaseDenseHead
    outputs: Any


def seam_of(head: BaseDenseHead | None) -> PAASeam | AssignerSeam:
    """Find the seam of a head whose assignment can be drawn.

    Raises:
        UnsupportedError: it decides from anchors alone, or by queries.
    """
    seam = next((seam for seam in SEAMS if seam.fits(head)), None)
    if isinstance(seam, (PAASeam, AssignerSeam)):
        return seam
    name = "a detector without bbox_head" if head is None else type(head).__name__
    known = ", ".join(seam.works_with for seam in SEAMS if isinstance(seam, (PAASeam, AssignerSeam)))
    raise UnsupportedError(
        f"the assignment of {name} cannot be drawn: it has no priors whose assignment depends on predictions; "
        f"it works with {known}."
    )


def cost_of(head: BaseDenseHead) -> str:
    """Label of the costs of a head's candidates."""
    seam = seam_of(head)
    # Seams defined outside of this package have no label here.
    return COSTS.get(type(seam).__name__, "cost")


@torch.no_grad()
def decide(
    head: BaseDenseHead, outputs: Any, samples: SampleList, teacher: Teacher | None = None
) -> Decisions:
    """Compute a head's label assignment from its own predictions or from a teacher's.

    Args:
        head: The head, whose priors, settings and assigner decide.
        outputs: What its ``forward`` returned for the batch.
        samples: Ground truth and metadata.
        teacher: Teacher whose predictions are used; None for its own.

    Raises:
        UnsupportedError: see :func:`seam_of`; or the head has no assigner.
        FloatingPointError: predictions are not finite.
    """
    seam = seam_of(head)
    if getattr(head, "train_cfg", None) is None or not hasattr(
        head, getattr(seam, "sites", ("assigner",))[0]
    ):
        raise UnsupportedError(f"{type(head).__name__} has no assigner: give its config a `train_cfg`.")
    if isinstance(seam, PAASeam):
        return _decide_paa(head, outputs, samples, teacher)
    source = None
    if teacher is not None:
        assert isinstance(teacher.seam, AssignerSeam)  # it is the student's, with the teacher's
        source = TeacherPredictions(teacher.seam, head, teacher.head, lambda images: teacher.outputs, samples)
    matchings = _match(head, seam, outputs, samples, source)
    return [() if matching is None else matching.candidates() for matching in matchings]


@dataclass(frozen=True)
class JointDecisions:
    """Shared label assignment of networks that learn together.

    Attributes:
        decisions: For each image its objects' candidates.
        teachers: For each image ``(G, L)`` int, index of the network that is the teacher of an object on a level; -1
            where the object has no candidates there.
    """

    decisions: Decisions
    teachers: list[np.ndarray]


@torch.no_grad()
def decide_jointly(
    co_learning: CoLearning,
    heads: Sequence[BaseDenseHead],
    outputs: Sequence[Any],
    samples: SampleList,
    switch: Switch,
) -> JointDecisions:
    """Compute the shared label assignment of heads that learn together.

    Args:
        co_learning: How they share their assignment.
        heads: The heads.
        outputs: What each returned for the batch.
        samples: Ground truth and metadata.
        switch: Chooses the teachers.
    """
    seam = seam_of(heads[0])
    if isinstance(seam, PAASeam):
        return _decide_paa_jointly(co_learning, heads, outputs, samples, switch)
    return _match_jointly(seam, heads, outputs, samples, switch)


class _Decided(Exception):  # noqa: N818  -- no error
    """Raised to stop a head's loss as soon as its label assignment is recorded."""


def _shallow_copy(head: BaseDenseHead) -> BaseDenseHead:
    """Copy a head with shared weights, so that its attributes may be set; lists, which some heads fill, are copied."""
    copied = copy.copy(head)
    for name, value in vars(copied).items():
        if isinstance(value, list):
            copied.__dict__[name] = list(value)
    return copied


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


# -- PAA -----------------------------------------------------------------------------------------------------------


def _decide_paa(head: BaseDenseHead, outputs: Any, samples: SampleList, teacher: Teacher | None) -> Decisions:
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
    anchors, levels = _numpy(candidates.anchors), _numpy(candidates.level)
    index, losses = _numpy(assignment.candidate), _numpy(assignment.loss)
    valid, positive = _numpy(assignment.valid), _numpy(assignment.positive)
    mixture = assignment.mixture
    means, variances, weights = _numpy(mixture.means), _numpy(mixture.variances), _numpy(mixture.weights)
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


def _decide_paa_jointly(
    co_learning: CoLearning,
    heads: Sequence[BaseDenseHead],
    outputs: Sequence[Any],
    samples: SampleList,
    switch: Switch,
) -> JointDecisions:
    first = _shallow_copy(heads[0])
    recorded: list[tuple[PAACandidates, PAAReassignment]] = []
    roles: list[tuple[RoleSwitch, Membership]] = []

    def reassign(losses: Tensor, candidates: PAACandidates) -> PAAReassignment:
        recorded.append((candidates, heads[0].reassign(losses, candidates)))
        return recorded[-1][1]

    def stop(*_: Any) -> None:
        raise _Decided

    # The last assignment is the shared one; those before are computed for the criterion.
    first.__dict__.update(reassign=reassign, assigned_losses=stop)
    with suppress(_Decided):
        co_learning.losses([first, *heads[1:]], outputs, samples, _recording(switch, roles))
    candidates, assignment = recorded[-1]
    teacher = np.full((candidates.num_gts, candidates.grid.num_levels), -1)
    for switched, membership in roles:
        teacher[_numpy(membership.gt), _numpy(membership.level)] = _numpy(switched.teacher)
    ends = np.cumsum(candidates.gt_counts)
    return JointDecisions(
        _paa_decisions(candidates, assignment),
        [teacher[end - count : end] for end, count in zip(ends, candidates.gt_counts, strict=True)],
    )


def _recording(
    switch: Switch, roles: list[tuple[RoleSwitch, Membership]]
) -> Callable[[Tensor, Membership, Callable[[int], Separation]], RoleSwitch]:
    def switched(
        losses: Tensor, membership: Membership, separations: Callable[[int], Separation]
    ) -> RoleSwitch:
        roles.append((switch(losses, membership, separations), membership))
        return roles[-1][0]

    return switched


# -- Heads with assigners ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ImageMatching:
    """Matching of one image with V priors and G objects, with what is drawn of it.

    Attributes:
        priors: (V, 4) xyxy in pixels.
        levels: (V,) int64.
        matching: Matches, and costs (V, G).
        thresholds: (G,), the largest cost of a positive; None where the assigner sets none.
    """

    priors: Tensor
    levels: Tensor
    matching: Matching
    thresholds: Tensor | None = None

    def candidates(self) -> tuple[Candidates, ...]:
        """Candidates of each object."""
        priors, levels = _numpy(self.priors), _numpy(self.levels)
        costs, matched = _numpy(self.matching.costs).astype(float), _numpy(self.matching.result.gt_inds)
        objects = []
        for gt in range(costs.shape[1]):
            positive = matched == gt + 1
            rows = np.isfinite(costs[:, gt]) | positive
            own = Candidates(
                priors=priors[rows],
                levels=levels[rows],
                costs=costs[rows, gt],
                positive=positive[rows],
                threshold=None if self.thresholds is None else float(self.thresholds[gt]),
            )
            objects.append(own.cheapest(_SHOWN))
        return tuple(objects)


def _match(
    head: BaseDenseHead,
    seam: AssignerSeam,
    outputs: Any,
    samples: SampleList,
    source: TeacherPredictions | None,
) -> list[_ImageMatching | None]:
    """Matching of each image by a head's assigner; None for images without objects.

    Args:
        head: The head.
        seam: Its seam.
        outputs: What its ``forward`` returned.
        samples: The batch.
        source: Predictions that the assigner uses; None for the head's own.
    """

    def evaluate(call: AssignerCall) -> _ImageMatching:
        instances = call.pred_instances if source is None else source.instances_for(call)
        return _match_image(head, call, instances, own.levels(call))

    own = TeacherPredictions(seam, head, head, lambda images: outputs, samples)
    return _each_call(head, seam, outputs, samples, evaluate)


def _each_call(
    head: BaseDenseHead,
    seam: AssignerSeam,
    outputs: Any,
    samples: SampleList,
    evaluate: Callable[[AssignerCall], Any],
) -> list[Any]:
    """Result of ``evaluate`` for each image's call of a head's assigner; None for images without objects."""
    gt_instances, ignored, metas = unpack_gt_instances(samples)
    found: list[Any] = [None] * len(samples)
    last = max((image for image, instances in enumerate(gt_instances) if len(instances)), default=-1)

    def record(call: AssignerCall) -> AssignResult:
        if len(call.gt_instances) == 0:
            return call.assign()
        found[call.image] = evaluate(call)
        if call.image == last:
            raise _Decided
        result = found[call.image]
        return result.matching.result if isinstance(result, _ImageMatching) else result[0]

    if last < 0:
        return found
    copied = _shallow_copy(head)
    if hasattr(copied, "initial_epoch"):
        # TOOD: the assignment after its initial epochs, which uses predictions.
        copied.initial_epoch = 0
    # DDOD has a second assigner, for the boxes; its assignment for the classes is drawn.
    with suppress(_Decided), replace_assigners(copied, seam.sites[:1], gt_instances, record):
        copied.loss_by_feat(*outputs, gt_instances, metas, ignored)
    return found


def _match_image(
    head: BaseDenseHead, call: AssignerCall, instances: InstanceData, levels: Tensor
) -> _ImageMatching:
    priors = instances.priors
    if not isinstance(head.prior_generator, AnchorGenerator):
        half = priors[:, 2:4] / 2
        priors = torch.cat([priors[:, :2] - half, priors[:, :2] + half], dim=1)
    if isinstance(call.assigner, TaskAlignedAssigner):
        return _ImageMatching(priors, levels, match_by_alignment(call, instances))
    if isinstance(call.assigner, ATSSAssigner):
        matching, thresholds = match_by_atss(call, instances)
        return _ImageMatching(priors, levels, matching, thresholds)
    if hasattr(call.assigner, "dynamic_k_matching"):
        return _ImageMatching(priors, levels, match_by_cost(call, instances))
    # Of other assigners the matches are drawn, without costs.
    shape = len(instances), len(call.gt_instances)
    result = call.assign(pred_instances=instances)
    return _ImageMatching(priors, levels, Matching(result, priors.new_full(shape, torch.inf)))


def match_by_atss(call: AssignerCall, instances: InstanceData) -> tuple[Matching, Tensor]:
    """Match with DDOD's assigners; costs 1 - s^(1 - alpha) u^alpha of the nearest priors, and thresholds (G,).

    Candidates are the ``topk`` nearest centres of each level; those are positive whose s^(1 - alpha) u^alpha reaches
    mean plus standard deviation of an object's candidates (and whose centre is in the object).
    """
    assigner, gt = call.assigner, call.gt_instances
    alpha = assigner.alpha
    scores = instances.scores[:, gt.labels].sigmoid()
    values = scores ** (1 - alpha) * assigner.iou_calculator(instances.bboxes, gt.bboxes) ** alpha
    distances = bbox_center_distance(gt.bboxes, instances.priors[:, :4])
    candidate = torch.zeros_like(distances, dtype=torch.bool)
    start = 0
    for count in call.arguments["num_level_priors"]:
        nearest = (
            distances[start : start + count].topk(min(assigner.topk, count), dim=0, largest=False).indices
        )
        candidate[start : start + count].scatter_(0, nearest, True)
        start += count
    chosen = torch.stack([values[candidate[:, g], g] for g in range(len(gt))], dim=1)
    threshold = 1 - (chosen.mean(0) + chosen.std(0))
    costs = (1 - values).masked_fill(~candidate, torch.inf)
    return Matching(call.assign(pred_instances=instances), costs), threshold


def _match_jointly(
    seam: AssignerSeam,
    heads: Sequence[BaseDenseHead],
    outputs: Sequence[Any],
    samples: SampleList,
    switch: Switch,
) -> JointDecisions:
    roles: list[tuple[RoleSwitch, Membership]] = []
    shared = SharedDecisions(seam, heads, outputs, samples, _recording(switch, roles))

    def evaluate(call: AssignerCall) -> tuple[AssignResult, np.ndarray]:
        before = len(roles)
        result = shared.decide(call)
        teacher = np.full((len(call.gt_instances), len(outputs[0][0])), -1)
        for switched, membership in roles[before:]:
            teacher[_numpy(membership.gt), _numpy(membership.level)] = _numpy(switched.teacher)
        return result, teacher

    together = _each_call(heads[0], seam, outputs[0], samples, evaluate)
    alone = [_match(head, seam, own, samples, None) for head, own in zip(heads, outputs, strict=True)]
    decisions: Decisions = []
    teachers = []
    for image, found in enumerate(together):
        if found is None:
            decisions.append(())
            teachers.append(np.full((0, len(outputs[0][0])), -1))
            continue
        result, teacher = found
        of_networks = [own for own in (matchings[image] for matchings in alone) if own is not None]
        costs = torch.stack([network.matching.costs for network in of_networks])
        # Where there is no teacher, the first network's matches are kept.
        number = torch.from_numpy(teacher).clamp(min=0).to(costs.device).T[of_networks[0].levels]
        taught = costs.gather(0, number[None])[0]
        first = of_networks[0]
        decisions.append(_ImageMatching(first.priors, first.levels, Matching(result, taught)).candidates())
        teachers.append(teacher)
    return JointDecisions(decisions, teachers)
