"""Heads that ask an assigner image by image, learning together: an object's matches are its teacher's."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.exchange.co_learning.base import CoLearning
from lad.exchange.replay import AssignerCall, answering
from lad.exchange.seams import SEAMS, AssignerSeam, check_same_classes, check_same_priors
from lad.exchange.seams.assigner import TaughtBatch
from lad.exchange.switching import Membership, RoleSwitch, Sides, Switch

import torch
from mmdet.models.task_modules import AssignResult, TaskAlignedAssigner
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import SampleList
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData
from torch import Tensor, nn

# SimOTA adds 100,000 to the cost of a prior that is not in the centre of an object: no candidate.
_NO_CANDIDATE = 1e5


@dataclass(frozen=True)
class Opinion:
    """What the predictions of one network say of one image with V priors and G objects.

    Attributes:
        result: The assigner's answer.
        costs: (V, G), what taking a prior for an object costs; infinite where it is no candidate.
    """

    result: AssignResult
    costs: Tensor


def matching_costs(call: AssignerCall, instances: InstanceData) -> Opinion:
    """For assigners that match a cost matrix (SimOTA, RTMDet's): their own costs, of priors centred in the object."""
    seen: list[tuple[Tensor, Tensor]] = []
    match = call.assigner.dynamic_k_matching

    def watch(cost: Tensor, pairwise_ious: Tensor, num_gt: int, valid_mask: Tensor) -> Any:
        seen.append((cost, valid_mask.clone()))  # the matching overwrites the mask
        return match(cost, pairwise_ious, num_gt, valid_mask)

    with replaced(call.assigner, "dynamic_k_matching", watch):
        result = call.assign(pred_instances=instances)
    costs = instances.bboxes.new_full((len(instances), len(call.gt_instances)), torch.inf)
    for cost, valid in seen:  # not asked where no prior is in any object
        costs[valid] = cost.masked_fill(cost >= _NO_CANDIDATE, torch.inf).to(costs.dtype)
    return Opinion(result, costs.masked_fill(~_centred(instances.priors[:, :2], call), torch.inf))


def alignment_costs(call: AssignerCall, instances: InstanceData) -> Opinion:
    """For TOOD's assigner: 1 - s^alpha u^beta, of priors centred in the object."""
    overlaps = call.assigner.iou_calculator(instances.bboxes, call.gt_instances.bboxes)
    scores = instances.scores[:, call.gt_instances.labels]
    costs = 1 - scores ** call.arguments["alpha"] * overlaps ** call.arguments["beta"]
    centres = (instances.priors[:, :2] + instances.priors[:, 2:4]) / 2
    costs = costs.masked_fill(~_centred(centres, call), torch.inf)
    return Opinion(call.assign(pred_instances=instances), costs)


def _centred(points: Tensor, call: AssignerCall) -> Tensor:
    """(V, G) bool, whether a point (V, 2) is inside an object's box."""
    boxes = HorizontalBoxes(call.gt_instances.bboxes, clone=False)
    return boxes.find_inside_points(points)


class AssignerCoLearning(CoLearning):
    """TOOD, RTMDet and YOLOX: each network's predictions are put to the assigner; each object takes the matches of one.

    A match of a prior with an object is kept from the network that teaches this object (on this level). Where two
    networks' matches give one prior to different objects, the cheaper match is kept. Qualities (IoU targets, alignment)
    are each head's own. Decided image by image, as these heads themselves do.
    """

    works_with = "TOODHead, RTMDetHead, RTMDetSepBNHead, YOLOXHead"

    def fits(self, head: nn.Module) -> bool:  # noqa: D102
        family = _family(head)
        return family is not None and _costs_of(getattr(head, family.sites[0], None)) is not None

    def check(self, heads: Sequence[nn.Module], switch: Switch) -> None:  # noqa: D102
        first, *others = heads
        for other in others:
            if type(_family(other)) is not type(_family(first)):
                raise UnsupportedError(
                    f"CoLearningDetector: {type(first).__name__} and {type(other).__name__} decide labels differently; "
                    "networks that learn together need heads of one kind."
                )
            check_same_classes(first, other)
            check_same_priors(first.prior_generator, other.prior_generator)
            if first.train_cfg != other.train_cfg:
                differing = sorted(
                    key
                    for key in {*first.train_cfg, *other.train_cfg}
                    if first.train_cfg.get(key) != other.train_cfg.get(key)
                )
                name = differing[0]
                raise UnsupportedError(
                    f"CoLearningDetector: train_cfg.{name} is {first.train_cfg.get(name)!r} in one network and "
                    f"{other.train_cfg.get(name)!r} in another: one decision serves all; set it alike."
                )
        if switch.per == "batch":
            raise UnsupportedError(
                f"CoLearningDetector: {type(first).__name__} assigns labels image by image, so per='batch' cannot be "
                "decided; use per='image', 'gt' or 'gt_level'."
            )

    def losses(  # noqa: D102
        self, heads: Sequence[nn.Module], outputs: Sequence[Any], data_samples: SampleList, switch: Switch
    ) -> tuple[list[dict[str, Tensor]], RoleSwitch | None]:
        family = _family(heads[0])
        gt_instances, ignored, metas = unpack_gt_instances(data_samples)
        shared = SharedDecisions(family, heads, outputs, data_samples, switch)

        def answer(call: AssignerCall) -> AssignResult:
            # Each head's qualities are its own, and the decision is every head's.
            result = copy.copy(shared.decide(call))
            family.requalify(call, result)
            return result

        losses = []
        for head, output in zip(heads, outputs, strict=True):
            with answering(head, family.sites, gt_instances, answer, lambda head=head: family.asks(head)):
                losses.append(head.loss_by_feat(*output, gt_instances, metas, ignored))
        return losses, shared.roles


class SharedDecisions:
    """The decisions of one batch, each made when the first head asks for it.

    Args:
        family: The heads' seam.
        heads: The heads.
        outputs: What each returned for the batch.
        samples: The batch.
        switch: Decides who teaches.
    """

    def __init__(
        self,
        family: AssignerSeam,
        heads: Sequence[nn.Module],
        outputs: Sequence[Any],
        samples: SampleList,
        switch: Switch,
    ) -> None:
        self._switch = switch
        self._batches = [
            TaughtBatch(family, heads[0], head, lambda images, output=output: output, samples)
            for head, output in zip(heads, outputs, strict=True)
        ]
        self._decided: dict[tuple[str, int], AssignResult] = {}
        self._roles: list[tuple[RoleSwitch, int]] = []

    @torch.no_grad()
    def decide(self, call: AssignerCall) -> AssignResult:
        """The matches of one image that all heads learn from."""
        key = (call.site, call.image)
        if key not in self._decided:
            self._decided[key] = self._decide(call)
        return self._decided[key]

    def _decide(self, call: AssignerCall) -> AssignResult:
        instances = [batch.instances_for(call) for batch in self._batches]
        if len(call.gt_instances) == 0:
            return call.assign(pred_instances=instances[0])
        opine = _costs_of(call.assigner)
        opinions = [opine(call, own) for own in instances]
        costs = torch.stack([opinion.costs for opinion in opinions])
        # The number of candidates is waited for, as these assigners themselves do for every image.
        prior, gt = costs.isfinite().all(0).nonzero(as_tuple=True)
        level = self._batches[0].levels(call)
        membership = Membership(
            image=torch.zeros_like(gt),
            gt=gt,
            level=level[prior],
            num_images=1,
            num_gts=costs.shape[2],
            num_levels=self._batches[0].num_levels,
        )

        def sides(number: int) -> Sides:
            matched = opinions[number].result.gt_inds[prior] == gt + 1
            return Sides(positive=matched, member=torch.ones_like(matched))

        roles = self._switch(costs[:, prior, gt], membership, sides)
        if len(prior):
            self._roles.append((roles, costs.shape[2]))
        cell, num_cells = membership.groups("gt_level")
        # Where an object has no candidate on a level there is nothing to compare: the first network's matches stay.
        teacher = cell.new_zeros(num_cells).scatter(0, cell, roles.teacher).view(-1, membership.num_levels)
        return compose(opinions, teacher, level)

    @property
    def roles(self) -> RoleSwitch | None:
        """Who taught in this batch: averages over images, weighted by their objects; None if nothing was compared."""
        if not self._roles:
            return None
        weights = torch.tensor([float(count) for _, count in self._roles], dtype=torch.float64)
        weights = (weights / weights.sum()).to(self._roles[0][0].share.device)

        def average(name: str) -> Tensor:
            return torch.stack([getattr(roles, name) for roles, _ in self._roles], dim=1) @ weights

        return RoleSwitch(
            teacher=torch.cat([roles.teacher for roles, _ in self._roles]),
            share=average("share"),
            mean=average("mean"),
            std=average("std"),
            criterion=average("criterion"),
        )


def compose(opinions: Sequence[Opinion], teacher: Tensor, level: Tensor) -> AssignResult:
    """The matches of several opinions of one image, each object's from the network that teaches it.

    Args:
        opinions: n networks'.
        teacher: (G, L) int64, the number of the network that teaches an object on a level.
        level: (V,) int64, the level of each prior.
    """
    results = [opinion.result for opinion in opinions]
    matched = torch.stack([result.gt_inds for result in results])
    object_ = (matched - 1).clamp(min=0)
    numbers = torch.arange(len(results), device=matched.device)[:, None]
    kept = (matched > 0) & (teacher[object_, level] == numbers)
    costs = torch.stack([opinion.costs for opinion in opinions])
    # A match that is no candidate (RTMDet may reach outside of an object) gives way to any that is.
    cost = costs.gather(2, object_[..., None])[..., 0].nan_to_num(posinf=torch.finfo(costs.dtype).max)
    best = cost.masked_fill(~kept, torch.inf).argmin(0)
    positive = kept.any(0)
    composed = copy.copy(results[0])
    for name, value in vars(results[0]).items():
        if isinstance(value, Tensor) and value.shape == matched.shape[1:]:
            values = torch.stack([getattr(result, name) for result in results])
            setattr(composed, name, torch.where(positive, values.gather(0, best[None])[0], value))
    # Ignored priors stay ignored; what only a network matched that does not teach it becomes background.
    composed.gt_inds = torch.where(positive, composed.gt_inds, results[0].gt_inds.clamp(max=0))
    composed.labels = torch.where(positive, composed.labels, -1)
    return composed


def _family(head: nn.Module | None) -> AssignerSeam | None:
    row = next((seam for seam in SEAMS if seam.fits(head)), None)
    return row if isinstance(row, AssignerSeam) else None


def _costs_of(assigner: Any) -> Any:
    """The function that gives this assigner's opinion with costs; None if it is not known how."""
    if isinstance(assigner, TaskAlignedAssigner):
        return alignment_costs
    return matching_costs if hasattr(assigner, "dynamic_k_matching") else None
