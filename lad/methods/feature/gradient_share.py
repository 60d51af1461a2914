"""Weights of feature distillation that follow the gradients that the student gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lad.base.progress import Progress
from lad.base.schedules import Schedule, build_schedule
from lad.base.settings import is_number
from lad.errors import ConfigError

import torch
from mmdet.utils import reduce_mean
from torch import Tensor, nn

#: ``type`` of the setting that builds a :class:`GradientShare`.
GRADIENT_SHARE = "gradient_share"


class GradientShare(nn.Module):
    """Weight of a loss that keeps its share of the gradient at the student's maps.

    With g_own the gradient of all other losses at the maps that are distilled, and g the gradient of the distillation
    at weight 1, both norms over all elements of all maps, the weight is

        w = share / (1 - share) * ||g_own|| / ||g||,

    so that w ||g|| is the given share of w ||g|| + ||g_own||. What the distillation of one map sends on to another of
    them (the last levels of a pyramid, each made of the one before) counts as own there. The norms are means over the
    last steps (an exponential moving average) and over all processes; the weight of a step follows from the steps
    before it. Everything stays on the device: nothing waits. The state is saved with the checkpoint, so that a resumed
    run goes on with the same weights; of several processes the last step before it counts as the first one saw it.

    After Liao et al., "RT-DETRv4", arXiv 2510.25257 (gradient-guided adaptive modulation), with the odds of their code.
    There the norms are those of parameters (L1, of the encoder's layer against the whole model's), are averaged over an
    epoch, and move the weight only when the share leaves an interval; here they are taken at the maps themselves, where
    both gradients can be told apart, and at every step.

    Args:
        share: The share, above 0 and below 1. RT-DETRv4 keeps 2 % to 11 % for its models.
        start: The weight of the first step.
        momentum: Of the moving average, from 0 (the last step alone) to below 1.
        minimum, maximum: Bounds of the weight.

    Raises:
        ConfigError: a setting is out of range.
    """

    weight: Tensor
    own: Tensor
    taught: Tensor
    pending: Tensor
    used: Tensor

    def __init__(
        self,
        share: float,
        start: float = 1.0,
        momentum: float = 0.99,
        minimum: float = 1e-4,
        maximum: float = 1e4,
        owner: str = "loss_weight",
    ) -> None:
        super().__init__()
        if not 0 < share < 1:
            raise ConfigError(f"{owner}: share must be above 0 and below 1, got {share!r}.")
        if not 0 <= momentum < 1:
            raise ConfigError(f"{owner}: momentum must be from 0 to below 1, got {momentum!r}.")
        if not 0 < minimum <= start <= maximum:
            raise ConfigError(
                f"{owner}: a weight of gradients needs 0 < minimum <= start <= maximum, got {minimum!r}, {start!r} and "
                f"{maximum!r}."
            )
        self.odds = share / (1 - share)
        self.momentum = momentum
        self.minimum, self.maximum = minimum, maximum
        self.register_buffer("weight", torch.tensor(float(start)))
        # Moving averages of the norms; both begin at 0, so their quotient needs no correction.
        self.register_buffer("own", torch.tensor(0.0))
        self.register_buffer("taught", torch.tensor(0.0))
        # Sums of squares of the last step, own and taught, and the weight that it used.
        self.register_buffer("pending", torch.zeros(2))
        self.register_buffer("used", torch.tensor(float(start)))

    def at(self, progress: Progress) -> Tensor:
        """The weight of a step, a scalar tensor; first takes in what the step before has left."""
        self._take_in()
        return self.weight.clone()

    def watch(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Stand-ins for a step's maps, through which the distillation's own gradient passes.

        Args:
            maps: The student's maps, as its other losses use them.
        """
        # A map that is compared with several of the teacher's is one map.
        by_map = {id(each): self._watched(each) if each.requires_grad else each for each in maps}
        return [by_map[id(each)] for each in maps]

    def _watched(self, maps: Tensor) -> Tensor:
        stand_in, found = maps.view_as(maps), []
        stand_in.register_hook(lambda gradient: found.append(gradient.detach()))

        def compare(gradient: Tensor) -> None:
            if not found:  # a backward pass of other losses alone
                return
            taught = found.pop()
            own = gradient.detach() - taught
            squares = [each.float().square().sum() for each in (own, taught)]
            self.pending += torch.stack(squares)

        # Called with the gradient of all losses together.
        maps.register_hook(compare)
        return stand_in

    @torch.no_grad()
    def _take_in(self) -> None:
        own, taught = reduce_mean(self.pending.clone()).sqrt()
        self.pending.zero_()
        taught = taught / self.used
        # Nothing is learnt of steps without a backward pass, and of those that overflow in half precision.
        usable = own.isfinite() & taught.isfinite() & (taught > 0) & (own > 0)
        for average, value in ((self.own, own), (self.taught, taught)):
            average.copy_(torch.where(usable, self.momentum * average + (1 - self.momentum) * value, average))
        wanted = (self.odds * self.own / self.taught).clamp(self.minimum, self.maximum)
        self.weight.copy_(torch.where(usable, wanted, self.weight))
        self.used.copy_(self.weight)


def build_weight(config: Any, owner: str) -> Schedule | GradientShare:
    """Build the weight of a loss from a setting.

    Args:
        config: A number or a schedule (:func:`lad.base.schedules.build_schedule`), or
            ``dict(type='gradient_share', share=0.1)``; see :class:`GradientShare` for further keys.
        owner: What it sets, for messages.

    Raises:
        ConfigError: it is no such setting, or below 0.
    """
    if isinstance(config, GradientShare):
        return config
    if not isinstance(config, dict) or config.get("type") != GRADIENT_SHARE:
        return build_schedule(config, owner, minimum=0)
    settings = {key: value for key, value in config.items() if key != "type"}
    wrong = [key for key, value in settings.items() if not is_number(value)]
    if wrong or "share" not in settings:
        what = f"{wrong[0]} must be a number, got {settings[wrong[0]]!r:.60}" if wrong else "it needs share"
        raise ConfigError(f"{owner}: {what}; it is like dict(type='{GRADIENT_SHARE}', share=0.1).")
    try:
        return GradientShare(**settings, owner=owner)
    except TypeError as error:
        raise ConfigError(
            f"{owner}: {error}; it takes share, start, momentum, minimum and maximum."
        ) from error
