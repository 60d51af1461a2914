"""Place of a training step in its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.logging import MessageHub

#: Number of an epoch that is late enough for whatever changes in the course of a training, such as TOOD's assigner.
LATE_EPOCH = 10**6


@dataclass(frozen=True)
class Progress:
    """Place of a training step in its run; what schedules and pretraining are functions of.

    Attributes:
        iteration: Number of the step in the run, from 0.
        epoch: Number of its epoch, from 0.
        max_iters: Number of steps of the run; None if unknown.
        max_epochs: Number of epochs of the run; None if unknown.
    """

    iteration: int = 0
    epoch: int = 0
    max_iters: int | None = None
    max_epochs: int | None = None

    @property
    def fraction(self) -> float:
        """Completed part of the run in [0, 1); 0 if its length is unknown."""
        return self.iteration / self.max_iters if self.max_iters else 0.0

    @classmethod
    def of_run(cls) -> Progress:
        """Progress of the current MMEngine run, from its message hub; the first step outside of a run.

        ``RuntimeInfoHook``, which every MMEngine runner has, writes the hub before each step.
        """
        info = MessageHub.get_current_instance().runtime_info
        return cls(
            int(info.get("iter", 0)), int(info.get("epoch", 0)), info.get("max_iters"), info.get("max_epochs")
        )


def tell_place(iteration: int, epoch: int) -> None:
    """Write the place of a step into the message hub, where there is no MMEngine runner that does.

    :meth:`Progress.of_run` reads it there, and so do heads that change in the course of a training: TOOD's fails
    without an epoch.

    Args:
        iteration: Number of the step, from 0.
        epoch: Number of its epoch, from 0.
    """
    hub = MessageHub.get_current_instance()
    hub.update_info("iter", iteration)
    hub.update_info("epoch", epoch)


def last_epoch(train_cfg: Mapping[str, Any] | None) -> int:
    """Number of the epoch that a training ends with, from 0: the place of a detector that is trained.

    Args:
        train_cfg: Of its config; None if it has none.

    Returns:
        ``max_epochs`` - 1. :data:`LATE_EPOCH` where no epochs are counted, as in a run that counts iterations: how many
        epochs it has been cannot be told, and a trained head is past its first ones.
    """
    epochs = (train_cfg or {}).get("max_epochs")
    return LATE_EPOCH if epochs is None else max(int(epochs) - 1, 0)
