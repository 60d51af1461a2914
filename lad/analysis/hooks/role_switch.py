"""Shares of objects that co-learning networks taught, as TensorBoard scalars and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lad.detectors.inspection import bound_methods
from lad.engine.model import detector_of
from lad.errors import ConfigError
from lad.methods.assignment.co_learning import CoLearningAssignment

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class RoleSwitchHook(Hook):
    """Shows which network of each :class:`CoLearningAssignment` taught what share of the objects.

    Every ``interval`` iterations the average share since the last time goes to the visualizer (TensorBoard, where its
    backend is configured) as ``role_switch/NETWORK``. At the end of training ``role_switch.png`` in the work_dir
    shows the whole run, resumed parts included; of several methods ``role_switch_METHOD.png``. Of several processes
    the first one's batches are counted, and iterations without a teaching network (no objects; TOOD's initial epochs)
    are not.

    Args:
        interval: Iterations that a point averages over.
    """

    priority = "LOW"

    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise ConfigError(f"RoleSwitchHook: interval must be at least 1, got {interval}.")
        self.interval = interval

    def before_train(self, runner: Runner) -> None:
        """Refuse models that have no roles to switch."""
        model = detector_of(runner)
        found = [one for one in bound_methods(model).values() if isinstance(one.method, CoLearningAssignment)]
        if not found:
            raise ConfigError(
                f"RoleSwitchHook shows the roles of a CoLearningAssignment, which this {type(model).__name__} has not: "
                "take the hook out of custom_hooks."
            )
        #: Networks that share their labels, by the name of their method.
        self.groups = {one.name: list(one.learners) for one in found}
        self._seen = {name: len(_history(name)) for names in self.groups.values() for name in names}

    @master_only
    def after_train_iter(self, runner: Runner, batch_idx: int, **kwargs: Any) -> None:  # noqa: D102
        if not self.every_n_train_iters(runner, self.interval):
            return
        shares = {name: _history(name)[seen:] for name, seen in self._seen.items()}
        means = {f"role_switch/{name}": float(np.mean(own)) for name, own in shares.items() if len(own)}
        self._seen = {name: seen + len(shares[name]) for name, seen in self._seen.items()}
        if means:
            runner.visualizer.add_scalars(means, step=runner.iter + 1)

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Draw the whole run."""
        # Registering this hook must not load what draws.
        from lad.analysis.pictures.role_switch import draw_shares

        for method, names in self.groups.items():
            shares = {name: _history(name) for name in names}
            file = "role_switch.png" if len(self.groups) == 1 else f"role_switch_{method}.png"
            if all(len(values) for values in shares.values()):
                draw_shares(shares, self.interval, Path(runner.work_dir) / file)


def _history(name: str) -> np.ndarray:
    """The shares of one network so far, an iteration each; iterations without candidates have none."""
    scalars = MessageHub.get_current_instance().log_scalars
    buffer = scalars.get(f"train/{name}.share")
    return np.zeros(0) if buffer is None else buffer.data[0]
