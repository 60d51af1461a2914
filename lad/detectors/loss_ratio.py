"""Factors of a method's losses that follow the learner's own loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lad.base.progress import Progress
from lad.base.schedules import Schedule, build_schedule
from lad.errors import ConfigError

import torch
from mmdet.utils import reduce_mean
from torch import Tensor

#: ``type`` of the setting that builds a :class:`LossRatio`.
LOSS_RATIO = "loss_ratio"


@dataclass(frozen=True)
class LossRatio:
    """A factor that makes a method's losses together as large as a part of its learner's own loss, in every step.

    w = ratio L_own / L_method, both sums of the step, without gradient and as means over all processes; 0 where the
    method's losses are 0 or no number. So a weight need not be copied from a paper of another loss and another
    detector, and it does not change with the scale of the teacher's features. As the method's losses are of constant
    size, their value says nothing any more: the log has the factor, which rises as they fall.

    Attributes:
        ratio: The part, a number or a schedule.
    """

    ratio: Schedule

    def at(self, progress: Progress, own: Mapping[str, Any], terms: Mapping[str, Any]) -> Tensor:
        """The factor of a step, a scalar.

        Args:
            progress: The step's place in the run.
            own: The learner's own losses, tensors or lists of them; names with ``'loss'`` count.
            terms: The method's.
        """
        total = _total(own)
        sums = torch.stack([total, _total(terms) if terms else total.new_zeros(())])
        own_total, taught = reduce_mean(sums).unbind()
        wanted = self.ratio.at(progress) * own_total / taught
        return torch.where((taught > 0) & wanted.isfinite(), wanted, torch.zeros_like(wanted))


def _total(losses: Mapping[str, Any]) -> Tensor:
    """The sum of losses as MMEngine adds them up, without gradient."""
    values = [
        value.detach().float().mean()
        for name, loss in losses.items()
        if "loss" in name
        for value in (loss if isinstance(loss, (list, tuple)) else [loss])
    ]
    return torch.stack(values).sum()


def build_factor(config: Any, owner: str) -> Schedule | LossRatio:
    """Build the factor of a method's losses from a setting.

    Args:
        config: A number or a schedule (:func:`lad.base.schedules.build_schedule`), or
            ``dict(type='loss_ratio', ratio=0.5)``, whose ratio is such a number or schedule.
        owner: What it sets, for messages.

    Raises:
        ConfigError: it is no such setting.
    """
    if not isinstance(config, dict) or config.get("type") != LOSS_RATIO:
        return build_schedule(config, owner, minimum=0)
    if set(config) != {"type", "ratio"}:
        raise ConfigError(
            f"{owner}: a loss ratio is like dict(type='{LOSS_RATIO}', ratio=0.5), got {config!r:.80}."
        )
    return LossRatio(build_schedule(config["ratio"], f"{owner}: ratio", minimum=0))
