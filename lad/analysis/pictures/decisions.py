"""What heads decide about a batch, object by object, in the form in which it is drawn.

The decisions are asked of the very code that training uses; losses are not computed, so nothing is exchanged between
processes, and the heads are as before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lad.analysis.pictures.assignment_drawing import Candidates, Mixture
from lad.assignment.candidates import PAACandidates, find_candidates
from lad.assignment.paa import PAAReassignment
from lad.assignment.priors import prior_grid
from lad.errors import UnsupportedError
from lad.exchange.co_learning import CoLearning
from lad.exchange.co_learning.assigner import Opinion, SharedDecisions, alignment_costs, matching_costs
from lad.exchange.replay import AssignerCall, answering
from lad.exchange.seams import SEAMS, AssignerSeam, PAASeam, Seam
from lad.exchange.seams.assigner import TaughtBatch
from lad.exchange.switching import Membership, RoleSwitch, Sides, Switch
from lad.heads.batched_paa_head import BatchedPAAHead, PAAPredictions, PAAScorer

import numpy as np
import torch
from mmdet.models.task_modules import AnchorGenerator, AssignResult, ATSSAssigner, TaskAlignedAssigner
from mmdet.models.task_modules.assigners.atss_assigner import bbox_center_distance
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import SampleList
from mmengine.structures import InstanceData
from torch import Tensor, nn

#: What the costs of a family of heads are.
COSTS = {
    "PAASeam": "loss of the candidate as a positive",
    "TOODSeam": r"$1 - s^\alpha u^\beta$  (s score, u IoU)",
    "RTMDetSeam": "matching cost: class + IoU + distance",
    "YOLOXSeam": "SimOTA cost: class + IoU",
    "DDODSeam": r"$1 - s^{1-\alpha} u^\alpha$ for the classes (s score, u IoU)",
}

# Candidates drawn of an object whose assigner looks at every prior in its box.
_SHOWN = 45

#: For each image of a batch its objects' candidates.
Decisions = list[tuple[Candidates, ...]]


@dataclass(frozen=True)
class Teacher:
    """Whose predictions decide in the place of a head's own.

    Attributes:
        seam: The student's seam, with the teacher's.
        head: The teacher's head.
        outputs: What it returned for the batch.
    """

    seam: Seam
    head: nn.Module
    outputs: Any


def seam_of(head: nn.Module | None) -> Seam:
    """The family of a head whose assignment can be drawn.

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


def cost_of(head: nn.Module) -> str:
    """What the costs of a head's candidates are, in words."""
    seam = seam_of(head)
    # Families of one's own have none of ours.
    return COSTS.get(type(seam).__name__, "cost")


@torch.no_grad()
def decide(head: nn.Module, outputs: Any, samples: SampleList, teacher: Teacher | None = None) -> Decisions:
    """What a head decides, from its own predictions or from a teacher's.

    Args:
        head: The head, whose priors, settings and assigner decide.
        outputs: What its ``forward`` returned for the batch.
        samples: Ground truth and metadata.
        teacher: Whose predictions it looks at; None for its own.

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
        source = TaughtBatch(teacher.seam, head, teacher.head, lambda images: teacher.outputs, samples)
    answers = _ask(head, seam, outputs, samples, source)
    return [() if answer is None else answer.candidates() for answer in answers]


@dataclass(frozen=True)
class Together:
    """What networks that learn together decide.

    Attributes:
        decisions: For each image its objects' candidates.
        teachers: For each image ``(G, L)`` int, the number of the network that taught an object on a level; -1 where
            the object has no candidates there.
    """

    decisions: Decisions
    teachers: list[np.ndarray]


@torch.no_grad()
def decide_together(
    way: CoLearning, heads: Sequence[nn.Module], outputs: Sequence[Any], samples: SampleList, switch: Switch
) -> Together:
    """What heads that learn together decide.

    Args:
        way: How they share their decision.
        heads: The heads.
        outputs: What each returned for the batch.
        samples: Ground truth and metadata.
        switch: Decides who teaches.
    """
    seam = seam_of(heads[0])
    if isinstance(seam, PAASeam):
        return _paa_together(way, heads, outputs, samples, switch)
    return _assigners_together(seam, heads, outputs, samples, switch)


class _Decided(Exception):  # noqa: N818  -- no error
    """Everything that is to be drawn is known: the losses need not be computed."""


def _twin(head: nn.Module) -> nn.Module:
    """A head with the same weights whose own attributes may be set; some heads keep notes in lists."""
    twin = copy.copy(head)
    for name, value in vars(twin).items():
        if isinstance(value, list):
            twin.__dict__[name] = list(value)
    return twin


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


# -- PAA -----------------------------------------------------------------------------------------------------------


def _decide_paa(head: nn.Module, outputs: Any, samples: SampleList, teacher: Teacher | None) -> Decisions:
    gt_instances, ignored, metas = unpack_gt_instances(samples)
    predictions = PAAPredictions.from_levels(head, *outputs)
    scorer = PAAScorer(head, predictions)
    if teacher is not None:
        scorer = PAAScorer(teacher.head, PAAPredictions.from_levels(teacher.head, *teacher.outputs))
    sizes = [level.shape[-2:] for level in outputs[0]]
    grid = prior_grid(head.prior_generator, sizes, device=outputs[0][0].device)
    # MMDetection's PAAHead has the same settings and decides the same, image by image.
    assigned = BatchedPAAHead.pre_assign(head, grid, gt_instances, metas, ignored)
    candidates = find_candidates(grid, assigned, gt_instances, metas, scorer.finite & predictions.finite)
    assignment = BatchedPAAHead.reassign(head, scorer.losses(candidates), candidates)
    return _of_paa(candidates, assignment)


def _of_paa(candidates: PAACandidates, assignment: PAAReassignment) -> Decisions:
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


def _paa_together(
    way: CoLearning, heads: Sequence[nn.Module], outputs: Sequence[Any], samples: SampleList, switch: Switch
) -> Together:
    first = _twin(heads[0])
    seen: list[tuple[PAACandidates, PAAReassignment]] = []
    roles: list[tuple[RoleSwitch, Membership]] = []

    def reassign(losses: Tensor, candidates: PAACandidates) -> PAAReassignment:
        seen.append((candidates, heads[0].reassign(losses, candidates)))
        return seen[-1][1]

    def stop(*_: Any) -> None:
        raise _Decided

    # The last assignment is everybody's; those before are what a criterion asked about.
    first.__dict__.update(reassign=reassign, assigned_losses=stop)
    with suppress(_Decided):
        way.losses([first, *heads[1:]], outputs, samples, _watched(switch, roles))
    candidates, assignment = seen[-1]
    teacher = np.full((candidates.num_gts, candidates.grid.num_levels), -1)
    for switched, membership in roles:
        teacher[_numpy(membership.gt), _numpy(membership.level)] = _numpy(switched.teacher)
    ends = np.cumsum(candidates.gt_counts)
    return Together(
        _of_paa(candidates, assignment),
        [teacher[end - count : end] for end, count in zip(ends, candidates.gt_counts, strict=True)],
    )


def _watched(
    switch: Switch, roles: list[tuple[RoleSwitch, Membership]]
) -> Callable[[Tensor, Membership, Callable[[int], Sides]], RoleSwitch]:
    def watched(losses: Tensor, membership: Membership, sides: Callable[[int], Sides]) -> RoleSwitch:
        roles.append((switch(losses, membership, sides), membership))
        return roles[-1][0]

    return watched


# -- Heads with assigners ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Answer:
    """What an assigner says of one image with V priors and G objects.

    Attributes:
        priors: (V, 4) xyxy in pixels.
        levels: (V,) int64.
        opinion: Matches, and costs (V, G).
        thresholds: (G,), the largest cost of a positive; None where the assigner sets none.
    """

    priors: Tensor
    levels: Tensor
    opinion: Opinion
    thresholds: Tensor | None = None

    def candidates(self) -> tuple[Candidates, ...]:
        """Each object's."""
        priors, levels = _numpy(self.priors), _numpy(self.levels)
        costs, matched = _numpy(self.opinion.costs).astype(float), _numpy(self.opinion.result.gt_inds)
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


def _ask(
    head: nn.Module, seam: AssignerSeam, outputs: Any, samples: SampleList, source: TaughtBatch | None
) -> list[_Answer | None]:
    """The assigner's answer for each image; None for images without objects.

    Args:
        head: The head that asks.
        seam: Its family.
        outputs: What its ``forward`` returned.
        samples: The batch.
        source: Gives the predictions that the assigner looks at; None for the head's own.
    """

    def answer(call: AssignerCall) -> _Answer:
        instances = call.own if source is None else source.instances_for(call)
        return _answer(head, call, instances, own.levels(call))

    own = TaughtBatch(seam, head, head, lambda images: outputs, samples)
    return _asked(head, seam, outputs, samples, answer)


def _asked(
    head: nn.Module,
    seam: AssignerSeam,
    outputs: Any,
    samples: SampleList,
    answer: Callable[[AssignerCall], Any],
) -> list[Any]:
    """What ``answer`` says when a head asks for each image; None for images without objects."""
    gt_instances, ignored, metas = unpack_gt_instances(samples)
    found: list[Any] = [None] * len(samples)
    last = max((image for image, instances in enumerate(gt_instances) if len(instances)), default=-1)

    def record(call: AssignerCall) -> AssignResult:
        if len(call.gt_instances) == 0:
            return call.assign()
        found[call.image] = answer(call)
        if call.image == last:
            raise _Decided
        result = found[call.image]
        return result.opinion.result if isinstance(result, _Answer) else result[0]

    if last < 0:
        return found
    twin = _twin(head)
    if hasattr(twin, "initial_epoch"):
        # TOOD: as it will decide when it looks at predictions.
        twin.initial_epoch = 0
    # DDOD asks a second time, for the boxes; what it decides for the classes is drawn.
    with suppress(_Decided), answering(twin, seam.sites[:1], gt_instances, record):
        twin.loss_by_feat(*outputs, gt_instances, metas, ignored)
    return found


def _answer(head: nn.Module, call: AssignerCall, instances: InstanceData, levels: Tensor) -> _Answer:
    priors = instances.priors
    if not isinstance(head.prior_generator, AnchorGenerator):
        half = priors[:, 2:4] / 2
        priors = torch.cat([priors[:, :2] - half, priors[:, :2] + half], dim=1)
    if isinstance(call.assigner, TaskAlignedAssigner):
        return _Answer(priors, levels, alignment_costs(call, instances))
    if isinstance(call.assigner, ATSSAssigner):
        opinion, thresholds = atss_costs(call, instances)
        return _Answer(priors, levels, opinion, thresholds)
    if hasattr(call.assigner, "dynamic_k_matching"):
        return _Answer(priors, levels, matching_costs(call, instances))
    # Of an assigner that is not known the matches are drawn, without costs.
    shape = len(instances), len(call.gt_instances)
    result = call.assign(pred_instances=instances)
    return _Answer(priors, levels, Opinion(result, priors.new_full(shape, torch.inf)))


def atss_costs(call: AssignerCall, instances: InstanceData) -> tuple[Opinion, Tensor]:
    """For DDOD's assigners: 1 - s^(1 - alpha) u^alpha of the priors nearest to an object, and the threshold (G,).

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
    return Opinion(call.assign(pred_instances=instances), costs), threshold


def _assigners_together(
    seam: AssignerSeam,
    heads: Sequence[nn.Module],
    outputs: Sequence[Any],
    samples: SampleList,
    switch: Switch,
) -> Together:
    roles: list[tuple[RoleSwitch, Membership]] = []
    shared = SharedDecisions(seam, heads, outputs, samples, _watched(switch, roles))

    def answer(call: AssignerCall) -> tuple[AssignResult, np.ndarray]:
        before = len(roles)
        result = shared.decide(call)
        teacher = np.full((len(call.gt_instances), len(outputs[0][0])), -1)
        for switched, membership in roles[before:]:
            teacher[_numpy(membership.gt), _numpy(membership.level)] = _numpy(switched.teacher)
        return result, teacher

    asked = _asked(heads[0], seam, outputs[0], samples, answer)
    alone = [_ask(head, seam, own, samples, None) for head, own in zip(heads, outputs, strict=True)]
    decisions, teachers = [], []
    for image, found in enumerate(asked):
        if found is None:
            decisions.append(())
            teachers.append(np.full((0, len(outputs[0][0])), -1))
            continue
        result, teacher = found
        of_networks = [answers[image] for answers in alone]
        costs = torch.stack([answer.opinion.costs for answer in of_networks])
        # Where nobody taught, the first network's matches stand.
        number = torch.from_numpy(teacher).clamp(min=0).to(costs.device).T[of_networks[0].levels]
        taught = costs.gather(0, number[None])[0]
        first = of_networks[0]
        decisions.append(_Answer(first.priors, first.levels, Opinion(result, taught)).candidates())
        teachers.append(teacher)
    return Together(decisions, teachers)
