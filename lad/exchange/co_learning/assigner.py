"""Co-learning of heads with image-wise assigners: an object's matches are those of its teacher."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.exchange.co_learning.base import CoLearning
from lad.exchange.replay import AssignerCall, replace_assigners
from lad.exchange.seams import SEAMS, AssignerSeam, check_same_classes, check_same_priors
from lad.exchange.seams.assigner import TeacherPredictions
from lad.exchange.switching import (
    Membership,
    RoleSwitch,
    Separation,
    Switch,
    SwitchFunction,
    separation_of_sides,
)

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.task_modules import AssignResult, TaskAlignedAssigner
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import SampleList
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData
from torch import Tensor

# SimOTA adds 100,000 to the cost of a prior that is not in the centre of an object: no candidate.
_NO_CANDIDATE = 1e5


@dataclass(frozen=True)
class Matching:
    """Matches of one image with V priors and G objects by the predictions of one network.

    Attributes:
        result: The assigner's result.
        costs: (V, G), cost of matching a prior with an object; infinite where it is no candidate.
    """

    result: AssignResult
    costs: Tensor


def match_by_cost(call: AssignerCall, instances: InstanceData) -> Matching:
    """Match with an assigner that has a cost matrix (SimOTA, RTMDet's); its costs, of priors centred in the object."""
    recorded: list[tuple[Tensor, Tensor]] = []
    match = call.assigner.dynamic_k_matching

    def record(cost: Tensor, pairwise_ious: Tensor, num_gt: int, valid_mask: Tensor) -> Any:
        recorded.append((cost, valid_mask.clone()))  # the matching overwrites the mask
        return match(cost, pairwise_ious, num_gt, valid_mask)

    with replaced(call.assigner, "dynamic_k_matching", record):
        result = call.assign(pred_instances=instances)
    costs = instances.bboxes.new_full((len(instances), len(call.gt_instances)), torch.inf)
    for cost, valid in recorded:  # empty where no prior is in any object
        costs[valid] = cost.masked_fill(cost >= _NO_CANDIDATE, torch.inf).to(costs.dtype)
    return Matching(result, costs.masked_fill(~_centred(instances.priors[:, :2], call), torch.inf))


def match_by_alignment(call: AssignerCall, instances: InstanceData) -> Matching:
    """Match with TOOD's assigner; costs 1 - s^alpha u^beta, of priors centred in the object."""
    overlaps = call.assigner.iou_calculator(instances.bboxes, call.gt_instances.bboxes)
    scores = instances.scores[:, call.gt_instances.labels]
    costs = 1 - scores ** call.arguments["alpha"] * overlaps ** call.arguments["beta"]
    centres = (instances.priors[:, :2] + instances.priors[:, 2:4]) / 2
    costs = costs.masked_fill(~_centred(centres, call), torch.inf)
    return Matching(call.assign(pred_instances=instances), costs)


def _centred(points: Tensor, call: AssignerCall) -> Tensor:
    """Whether points (V, 2) are inside the objects' boxes, (V, G) bool."""
    boxes = HorizontalBoxes(call.gt_instances.bboxes, clone=False)
    return boxes.find_inside_points(points)


class AssignerCoLearning(CoLearning):
    """Shared assignment of TOOD, RTMDet and YOLOX heads: each object is matched by the predictions of one network.

    The matches of an object are those of its teacher (on each level). Where matches of two networks give one prior to
    different objects, the cheaper match is kept. Qualities (IoU targets, alignment) are each head's own. Decided image
    by image, as these heads themselves do.
    """

    works_with = "TOODHead, RTMDetHead, RTMDetSepBNHead, YOLOXHead"

    def fits(self, head: BaseDenseHead) -> bool:  # noqa: D102
        family = _family(head)
        return family is not None and _match_function(getattr(head, family.sites[0], None)) is not None

    def check(self, heads: Sequence[BaseDenseHead], switch: Switch) -> None:  # noqa: D102
        first, *others = heads
        for other in others:
            if type(_family(other)) is not type(_family(first)):
                raise UnsupportedError(
                    f"CoLearningAssignment: {type(first).__name__} and {type(other).__name__} decide labels "
                    "differently; networks that learn together need heads of one kind."
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
                    f"CoLearningAssignment: train_cfg.{name} is {first.train_cfg.get(name)!r} in one network and "
                    f"{other.train_cfg.get(name)!r} in another: one decision serves all; set it alike."
                )
        if switch.per == "batch":
            raise UnsupportedError(
                f"CoLearningAssignment: {type(first).__name__} assigns labels image by image, so per='batch' cannot be "
                "decided; use per='image', 'gt' or 'gt_level'."
            )

    def losses(  # noqa: D102
        self,
        heads: Sequence[BaseDenseHead],
        outputs: Sequence[Any],
        data_samples: SampleList,
        switch: SwitchFunction,
    ) -> tuple[list[dict[str, Tensor]], RoleSwitch | None]:
        family = _family(heads[0])
        assert family is not None  # fits() was true for all heads
        gt_instances, ignored, metas = unpack_gt_instances(data_samples)
        shared = SharedDecisions(family, heads, outputs, data_samples, switch)

        def assign(call: AssignerCall) -> AssignResult:
            # The decision is shared, and the qualities are each head's own.
            result = copy.copy(shared.decide(call))
            family.update_qualities(call, result)
            return result

        losses = []
        for head, output in zip(heads, outputs, strict=True):
            with replace_assigners(
                head, family.sites, gt_instances, assign, partial(family.uses_predictions, head)
            ):
                losses.append(head.loss_by_feat(*output, gt_instances, metas, ignored))
        return losses, shared.roles


class SharedDecisions:
    """Shared decisions of one batch, each made at the first call of an assigner.

    Args:
        family: The heads' seam.
        heads: The heads.
        outputs: What each returned for the batch.
        samples: The batch.
        switch: Chooses the teachers.
    """

    def __init__(
        self,
        family: AssignerSeam,
        heads: Sequence[BaseDenseHead],
        outputs: Sequence[Any],
        samples: SampleList,
        switch: SwitchFunction,
    ) -> None:
        self._switch = switch
        self._batches = [
            TeacherPredictions(family, heads[0], head, partial(_given, output), samples)
            for head, output in zip(heads, outputs, strict=True)
        ]
        self._decided: dict[tuple[str, int], AssignResult] = {}
        self._roles: list[tuple[RoleSwitch, int]] = []

    @torch.no_grad()
    def decide(self, call: AssignerCall) -> AssignResult:
        """Matches of one image that are shared by all heads."""
        key = (call.site, call.image)
        if key not in self._decided:
            self._decided[key] = self._decide(call)
        return self._decided[key]

    def _decide(self, call: AssignerCall) -> AssignResult:
        instances = [batch.instances_for(call) for batch in self._batches]
        if len(call.gt_instances) == 0:
            return call.assign(pred_instances=instances[0])
        match = _match_function(call.assigner)
        assert match is not None  # fits() was true for all heads
        matchings = [match(call, own) for own in instances]
        costs = torch.stack([matching.costs for matching in matchings])
        # Waits for the number of candidates, as these assigners themselves do for every image.
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

        compared = costs[:, prior, gt]

        def separation(number: int) -> Separation:
            matched = matchings[number].result.gt_inds[prior] == gt + 1
            return separation_of_sides(compared[number], matched, gt, costs.shape[2])

        roles = self._switch(compared, membership, separation)
        if len(prior):
            self._roles.append((roles, costs.shape[2]))
        cell, num_cells = membership.groups("gt_level")
        # Where an object has no candidate on a level nothing is compared: the first network's matches are kept.
        teacher = cell.new_zeros(num_cells).scatter(0, cell, roles.teacher).view(-1, membership.num_levels)
        return compose(matchings, teacher, level)

    @property
    def roles(self) -> RoleSwitch | None:
        """Roles in this batch: averages over images, weighted by their objects; None if nothing was compared."""
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


def compose(matchings: Sequence[Matching], teacher: Tensor, level: Tensor) -> AssignResult:
    """Compose the matches of one image from those of several networks, each object's from its teacher.

    Args:
        matchings: Those of n networks.
        teacher: (G, L) int64, index of the network that is the teacher of an object on a level.
        level: (V,) int64, the level of each prior.
    """
    results = [matching.result for matching in matchings]
    matched = torch.stack([result.gt_inds for result in results])
    object_ = (matched - 1).clamp(min=0)
    numbers = torch.arange(len(results), device=matched.device)[:, None]
    kept = (matched > 0) & (teacher[object_, level] == numbers)
    costs = torch.stack([matching.costs for matching in matchings])
    # A match that is no candidate (RTMDet's may be outside of an object) is dropped for any that is.
    cost = costs.gather(2, object_[..., None])[..., 0].nan_to_num(posinf=torch.finfo(costs.dtype).max)
    best = cost.masked_fill(~kept, torch.inf).argmin(0)
    positive = kept.any(0)
    composed = copy.copy(results[0])
    for name, value in vars(results[0]).items():
        if isinstance(value, Tensor) and value.shape == matched.shape[1:]:
            values = torch.stack([getattr(result, name) for result in results])
            setattr(composed, name, torch.where(positive, values.gather(0, best[None])[0], value))
    # Ignored priors stay ignored; a prior matched only by networks that are not the object's teacher is background.
    composed.gt_inds = torch.where(positive, composed.gt_inds, results[0].gt_inds.clamp(max=0))
    composed.labels = torch.where(positive, composed.labels, -1)
    return composed


def _given(outputs: Any, images: Sequence[int]) -> Any:
    """Outputs that were computed for all images."""
    return outputs


def _family(head: BaseDenseHead | None) -> AssignerSeam | None:
    seam = next((seam for seam in SEAMS if seam.fits(head)), None)
    return seam if isinstance(seam, AssignerSeam) else None


def _match_function(assigner: Any) -> Callable[[AssignerCall, InstanceData], Matching] | None:
    """Function that matches with this assigner and returns costs; None for unknown assigners."""
    if isinstance(assigner, TaskAlignedAssigner):
        return match_by_alignment
    return match_by_cost if hasattr(assigner, "dynamic_k_matching") else None
