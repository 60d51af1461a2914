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
    """Shows which network of a :class:`CoLearningAssignment` taught what share of the objects.

    Every ``interval`` iterations the average share since the last time goes to the visualizer (TensorBoard, where its
    backend is configured) as ``role_switch/NETWORK``. At the end of training ``role_switch.png`` in the work_dir
    shows the whole run, resumed parts included. Of several processes the first one's batches are counted, and
    iterations without a teaching network (no objects; TOOD's initial epochs) are not.

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
        self.names = list(found[0].learners)
        self._seen = len(_history(self.names[0]))

    @master_only
    def after_train_iter(self, runner: Runner, batch_idx: int, **kwargs: Any) -> None:  # noqa: D102
        if not self.every_n_train_iters(runner, self.interval):
            return
        shares = {f"role_switch/{name}": _history(name)[self._seen :] for name in self.names}
        means = {tag: float(np.mean(values)) for tag, values in shares.items() if len(values)}
        self._seen += max(map(len, shares.values()))
        if means:
            runner.visualizer.add_scalars(means, step=runner.iter + 1)

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Draw the whole run."""
        # Registering this hook must not load what draws.
        from lad.analysis.pictures.role_switch import draw_shares

        shares = {name: _history(name) for name in self.names}
        if all(len(values) for values in shares.values()):
            draw_shares(shares, self.interval, Path(runner.work_dir) / "role_switch.png")


def _history(name: str) -> np.ndarray:
    """The shares of one network so far, an iteration each; iterations without candidates have none."""
    scalars = MessageHub.get_current_instance().log_scalars
    buffer = scalars.get(f"train/{name}.share")
    return np.zeros(0) if buffer is None else buffer.data[0]
