"""Label assignments of heads that ask an assigner, object by object, for drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lad.analysis.pictures.assignment_picture import Candidates
from lad.analysis.pictures.decision_parts import (
    Decided,
    Decisions,
    JointDecisions,
    recording,
    shallow_copy,
    teachers_of,
    to_numpy,
)
from lad.exchange.co_learning.assigner import Matching, SharedDecisions, match_by_alignment, match_by_cost
from lad.exchange.replay import AssignerCall, replace_assigners
from lad.exchange.seams import AssignerSeam
from lad.exchange.seams.assigner import TeacherPredictions
from lad.exchange.switching import Membership, RoleSwitch, Switch

import numpy as np
import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.task_modules import AnchorGenerator, AssignResult, ATSSAssigner, TaskAlignedAssigner
from mmdet.models.task_modules.assigners.atss_assigner import bbox_center_distance
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import SampleList
from mmengine.structures import InstanceData
from torch import Tensor

# Number of candidates drawn of an object whose assigner uses every prior in its box.
_SHOWN = 45


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
        priors, levels = to_numpy(self.priors), to_numpy(self.levels)
        costs, matched = to_numpy(self.matching.costs).astype(float), to_numpy(self.matching.result.gt_inds)
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


def match_images(
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
            raise Decided
        result = found[call.image]
        return result.matching.result if isinstance(result, _ImageMatching) else result[0]

    if last < 0:
        return found
    copied = shallow_copy(head)
    if hasattr(copied, "initial_epoch"):
        # TOOD: the assignment after its initial epochs, which uses predictions.
        copied.initial_epoch = 0
    # DDOD has a second assigner, for the boxes; its assignment for the classes is drawn.
    with suppress(Decided), replace_assigners(copied, seam.sites[:1], gt_instances, record):
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


def match_jointly(
    seam: AssignerSeam,
    heads: Sequence[BaseDenseHead],
    outputs: Sequence[Any],
    samples: SampleList,
    switch: Switch,
) -> JointDecisions:
    """The matches that heads share, with the costs of the network that decides for each object on each level."""
    roles: list[tuple[RoleSwitch, Membership]] = []
    shared = SharedDecisions(seam, heads, outputs, samples, recording(switch, roles))

    def evaluate(call: AssignerCall) -> tuple[AssignResult, np.ndarray]:
        before = len(roles)
        result = shared.decide(call)
        return result, teachers_of(roles[before:], len(call.gt_instances), len(outputs[0][0]))

    together = _each_call(heads[0], seam, outputs[0], samples, evaluate)
    alone = [match_images(head, seam, own, samples, None) for head, own in zip(heads, outputs, strict=True)]
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
