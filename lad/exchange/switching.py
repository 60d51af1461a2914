"""Role switching: criteria that choose the teacher by how well networks separate the same candidates.

Nguyen et al., "Improving Object Detection by Label Assignment Distillation", WACV 2022, arXiv 2108.10520, Sec. 3.3
(Co-learning LAD). A network whose losses have a large spread separates good candidates from bad ones; its losses then
decide the labels of all networks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lad.errors import ConfigError

import torch
from mmdet.registry import TASK_UTILS
from torch import Tensor

PER = ("batch", "image", "gt", "gt_level")
# Lower bound of the mean in the denominator: losses of zero have a sigma / mu of 0, not NaN.
_LEAST_MEAN = 1e-12
# Added to sample variances as in the mixture (scikit-learn's ``reg_covar``): a side of a single candidate has none.
_REG_COVAR = 1e-6


@dataclass(frozen=True)
class Membership:
    """Image, ground truth and feature level of each of K candidates.

    Attributes:
        image: (K,) int64 in [0, num_images).
        gt: (K,) int64 in [0, num_gts), the ground truth, counted through the batch.
        level: (K,) int64 in [0, num_levels), the feature level.
        num_images, num_gts, num_levels: Their numbers.
    """

    image: Tensor
    gt: Tensor
    level: Tensor
    num_images: int
    num_gts: int
    num_levels: int

    def groups(self, per: str) -> tuple[Tensor, int]:
        """Group (K,) of each candidate, and the number of groups, empty ones included."""
        if per == "batch":
            return torch.zeros_like(self.gt), 1
        if per == "image":
            return self.image, self.num_images
        if per == "gt":
            return self.gt, self.num_gts
        return self.gt * self.num_levels + self.level, self.num_gts * self.num_levels


@dataclass(frozen=True)
class Separation:
    """The two Gaussians by which one network separates the losses of each of G ground truths' candidates.

    Attributes:
        mean: (G, 2) float64, means of the component of low losses and of that of high ones.
        variance: (G, 2) float64, their variances; positive.
        defined: (G,) bool, whether there are two components.
    """

    mean: Tensor
    variance: Tensor
    defined: Tensor

    @property
    def score(self) -> Tensor:
        """Fisher score (G,): (mu+ - mu-)^2 / (sigma+^2 + sigma-^2); 0 where there are no two components."""
        score = (self.mean[:, 0] - self.mean[:, 1]).square() / self.variance.sum(1)
        return score.where(self.defined, 0.0)


@dataclass(frozen=True)
class GroupStatistics:
    """Statistics and criterion of n networks' losses in R groups.

    Attributes:
        count: (R,) float64, number of candidates of the group.
        mean: (n, R) float64, of the losses; 0 where empty.
        std: (n, R) float64, unbiased; 0 where fewer than two candidates.
        criterion: (n, R) float64, the larger the better; 0 where fewer than two candidates.
    """

    count: Tensor
    mean: Tensor
    std: Tensor
    criterion: Tensor

    @property
    def score(self) -> Tensor:
        """Score (n, R) by which networks are compared: of groups of one candidate, minus the loss."""
        return torch.where(self.count < 2, -self.mean, self.criterion)


@dataclass(frozen=True)
class RoleSwitch:
    """Roles of the networks in one batch.

    Attributes:
        teacher: (K,) int64, index of the network whose loss is used for the candidate.
        share: (n,) float64, share of the objects whose teacher each network is; an object with different teachers on
            several levels counts in parts. Zeros without candidates.
        mean, std, criterion: (n,) float64, averages over the groups that have candidates (``mean``) and at least two
            (``std``, ``criterion``).
    """

    teacher: Tensor
    share: Tensor
    mean: Tensor
    std: Tensor
    criterion: Tensor


def moments(
    values: Tensor, group: Tensor, num_groups: int, member: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Compute count, mean and sum of squared deviations of each group, each (n, num_groups) float64.

    In float64 and in two passes: the deviations of a group may be far smaller than its mean.

    Args:
        values: (n, K), n networks' values of the same candidates.
        group: (K,) int64 in [0, num_groups).
        num_groups: How many groups there are.
        member: (n, K) bool, which values are used; by default all.
    """
    values = values.double()
    weight = torch.ones_like(values) if member is None else member.double()
    index = group.expand_as(values)
    zeros = values.new_zeros(len(values), num_groups)
    count = zeros.scatter_add(1, index, weight)
    mean = zeros.scatter_add(1, index, weight * values) / count.clamp(min=1)
    deviations = zeros.scatter_add(1, index, weight * (values - mean.gather(1, index)).square())
    return count, mean, deviations


def std_mean(losses: Tensor, group: Tensor, num_groups: int) -> GroupStatistics:
    """Compute sigma / mu of each network's losses in each group.

    Args:
        losses: (n, K), not negative.
        group: (K,) int64 in [0, num_groups).
        num_groups: How many groups there are.
    """
    count, mean, deviations = moments(losses, group, num_groups)
    std = (deviations / (count - 1).clamp(min=1)).sqrt()
    return GroupStatistics(count[0], mean, std, std / mean.clamp(min=_LEAST_MEAN))


def separation_of_sides(losses: Tensor, low: Tensor, gt: Tensor, num_gts: int) -> Separation:
    """Mean and variance of the losses on two given sides of each ground truth, for heads that fit no mixture.

    Variances are those of the population plus 1e-6, as in PAA's mixture.

    Args:
        losses: (K,), one network's.
        low: (K,) bool, whether the candidate is on the side of low losses.
        gt: (K,) int64 in [0, num_gts).
        num_gts: G.
    """
    # As two "networks" with the same losses, each with its own side.
    sides = torch.stack([low, ~low])
    count, mean, deviations = moments(losses.expand(2, -1), gt, num_gts, sides)
    variance = deviations / count.clamp(min=1) + _REG_COVAR
    return Separation(mean.T, variance.T, (count > 0).all(0))


def fisher(
    losses: Tensor, membership: Membership, separations: Sequence[Separation], per: str
) -> GroupStatistics:
    """Compute the Fisher score of each network's losses in each group: the mean over the group's objects.

    The score of an object is that of the two Gaussians that the network separates its candidates with
    (:attr:`Separation.score`), over all levels.

    Args:
        losses: (n, K).
        membership: What the candidates belong to.
        separations: Each network's.
        per: ``'batch'``, ``'image'`` or ``'gt'``.
    """
    group, num_groups = membership.groups(per)
    count, mean, deviations = moments(losses, group, num_groups)
    std = (deviations / (count - 1).clamp(min=1)).sqrt()
    scores = torch.stack([separation.score for separation in separations])
    # An object's group is that of any of its candidates; one without candidates is in none.
    group_of = group.new_zeros(membership.num_gts).scatter(0, membership.gt, group)
    present = scores.new_zeros(membership.num_gts).index_fill(0, membership.gt, 1.0)
    objects = scores.new_zeros(num_groups).scatter_add(0, group_of, present)
    total = scores.new_zeros(len(scores), num_groups).scatter_add(
        1, group_of.expand_as(scores), scores.where(present > 0, 0.0)
    )
    return GroupStatistics(count[0], mean, std, total / objects.clamp(min=1))


#: What shared decisions call: a :class:`Switch`, or a function in its place.
SwitchFunction = Callable[[Tensor, "Membership", Callable[[int], "Separation"]], "RoleSwitch"]


class Switch(ABC):
    """Chooses the teacher of each group of candidates.

    It is the network of largest criterion; of equal ones the first. In groups of one candidate, which have no spread,
    it is the network of smallest loss. Groups without candidates have no teacher. A network whose losses in a group are
    NaN or infinite is not chosen while another's are finite.

    Args:
        per: Group of candidates that share a teacher: all candidates of the ``'batch'`` (of one process), of an
            ``'image'``, of a ground truth (``'gt'``), or of a ground truth on one feature level (``'gt_level'``).
    """

    def __init__(self, per: str = "gt_level") -> None:
        if per not in PER:
            raise ConfigError(f"{type(self).__name__}: per must be one of {', '.join(PER)}, got {per!r}.")
        self.per = per

    @abstractmethod
    def statistics(
        self, losses: Tensor, membership: Membership, separations: Callable[[int], Separation]
    ) -> GroupStatistics:
        """Compute the criterion of each network in each group ``per`` which it is decided.

        Args:
            losses: (n, K), each network's loss of each candidate.
            membership: What the candidates belong to.
            separations: Returns how the network of a given index separates each ground truth's candidates.
        """

    @torch.no_grad()
    def __call__(
        self, losses: Tensor, membership: Membership, separations: Callable[[int], Separation]
    ) -> RoleSwitch:
        """Choose the teachers of one batch.

        Args:
            losses: (n, K), n networks' losses of the same K candidates.
            membership: What the candidates belong to.
            separations: Returns how the network of a given index separates each ground truth's candidates.
        """
        group, _ = membership.groups(self.per)
        statistics = self.statistics(losses, membership, separations)
        # To argmax a NaN is larger than every number.
        score = statistics.score.masked_fill(~statistics.score.isfinite(), -torch.inf)
        teacher = score.argmax(0)[group]
        some, several = statistics.count > 0, statistics.count > 1
        return RoleSwitch(
            teacher=teacher,
            share=teaching_share(teacher, membership, len(losses)),
            mean=_average(statistics.mean, some),
            std=_average(statistics.std, several),
            criterion=_average(statistics.criterion, several),
        )


@TASK_UTILS.register_module()
class StdMeanSwitch(Switch):
    """Switch to the network with the largest sigma / mu of its candidates' losses: see :func:`std_mean`."""

    def statistics(  # noqa: D102
        self, losses: Tensor, membership: Membership, separations: Callable[[int], Separation]
    ) -> GroupStatistics:
        return std_mean(losses, *membership.groups(self.per))


@TASK_UTILS.register_module()
class FisherSwitch(Switch):
    """Switch to the network whose own mixture of two Gaussians separates its losses best: see :func:`fisher`.

    Args:
        per: Group of candidates that share a teacher: all of the ``'batch'`` (of one process), of an ``'image'``, or of
            a ground truth (``'gt'``).

    Raises:
        ConfigError: ``per='gt_level'``: the mixture of an object is one for all levels, and a level has none.
    """

    def __init__(self, per: str = "gt") -> None:
        if per == "gt_level":
            raise ConfigError(
                "FisherSwitch: per='gt_level' has no Fisher score: an object's mixture is fitted to its candidates on "
                "all levels; use per='gt', 'image' or 'batch', or StdMeanSwitch."
            )
        super().__init__(per)

    def statistics(  # noqa: D102
        self, losses: Tensor, membership: Membership, separations: Callable[[int], Separation]
    ) -> GroupStatistics:
        return fisher(losses, membership, [separations(number) for number in range(len(losses))], self.per)


def teaching_share(teacher: Tensor, membership: Membership, num_networks: int) -> Tensor:
    """Compute the average (n,) over objects of the share of an object's levels whose teacher each network is.

    Args:
        teacher: (K,) int64, the same for all candidates of an object on one level.
        membership: What the candidates belong to.
        num_networks: n.
    """
    cell, num_cells = membership.groups("gt_level")
    # Every candidate of a cell writes the same index; -1 remains where there are none.
    winner = teacher.new_full((num_cells,), -1).scatter(0, cell, teacher)
    winner = winner.view(membership.num_gts, membership.num_levels)
    numbers = torch.arange(num_networks, device=teacher.device)[:, None, None]
    won = (winner == numbers).double().sum(2)
    levels = (winner >= 0).sum(1)
    return _average(won / levels.clamp(min=1), levels > 0)


def _average(values: Tensor, counts: Tensor) -> Tensor:
    """Averages (n,) of values (n, R) over the groups selected by ``counts`` (R,); 0 if none is."""
    return (values * counts).sum(1) / counts.sum().clamp(min=1)
