"""Co-learning label assignment: trained networks switch the roles of teacher and student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lad.base.random_state import RandomState
from lad.errors import ConfigError
from lad.exchange.co_learning import find_co_learning
from lad.exchange.seams import check_same_sizes
from lad.exchange.switching import RoleSwitch, Switch
from lad.heads.dense import level_sizes
from lad.methods.base import JointMethod, Step

from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS, TASK_UTILS
from torch import Tensor

#: Statistics of a network's candidates that are logged beside its losses.
LOGGED = ("mean", "std", "criterion", "share")


@MODELS.register_module()
class CoLearningAssignment(JointMethod):
    """Networks trained at once share one label assignment, which now one and now another of them decides.

    Co-learning LAD (CoLAD) of Nguyen et al., WACV 2022, arXiv 2108.10520, Sec. 3.3. In each step every network scores
    the same candidates; the switch chooses, group by group, whose losses decide the assignment, and every network
    learns its own losses on the labels that result. Gradients of a network come from its own losses only. No network
    needs to be pretrained.

    Logged beside each network's losses (``a.loss_cls``): the averages of its candidates' losses (``a.mean``), of their
    spread (``a.std``) and of the criterion (``a.criterion``), and the share of objects that it taught (``a.share``).

    Args:
        switch: Config of a :class:`lad.exchange.switching.Switch`.
        init_cfg: As in MMEngine.
    """

    steers = ("bbox_head",)

    def __init__(self, switch: dict, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.switch = TASK_UTILS.build(switch) if isinstance(switch, dict) else switch
        if not isinstance(self.switch, Switch):
            raise ConfigError(
                "CoLearningAssignment: switch must be like dict(type='StdMeanSwitch'), got "
                f"{type(self.switch).__name__ if isinstance(switch, dict) else switch!r:.60}."
            )

    def bind_together(self, networks: Mapping[str, BaseDetector]) -> None:
        """Refuse networks that cannot share their labels."""
        self.co_learning = find_co_learning(dict(networks), self.switch)

    def own_losses(self, steps: Mapping[str, Step]) -> dict[str, dict[str, Any]]:
        """Every network's own losses on the shared labels, and the statistics of who decided them."""
        first = next(iter(steps.values()))
        start = RandomState.capture(first.inputs.device)
        heads, outputs = [], []
        for step in steps.values():
            start.restore()
            heads.append(step.student.bbox_head)
            outputs.append(step.student.bbox_head(step.student.extract_feat(step.inputs)))
        sizes = [level_sizes(output[0]) for output in outputs]
        for name, other in zip(steps, sizes, strict=True):
            check_same_sizes(f"CoLearningAssignment: {next(iter(steps))}", name, sizes[0], other)
        losses, roles = self.co_learning.losses(heads, outputs, first.data_samples, self.switch)
        named = dict(zip(steps, losses, strict=True))
        if roles is None:
            return named
        return {name: own | statistics(roles, number) for number, (name, own) in enumerate(named.items())}


def statistics(roles: RoleSwitch, number: int) -> dict[str, Tensor]:
    """Statistics of one network's role for the log, by its number."""
    return {key: getattr(roles, key)[number] for key in LOGGED}
