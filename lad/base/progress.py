"""Place of a training step in its run."""

from __future__ import annotations

from dataclasses import dataclass

from mmengine.logging import MessageHub


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
