"""Hook that writes what a client sends at the end of its round."""

from __future__ import annotations

from pathlib import Path

from lad.detectors.state import SNAPSHOTS
from lad.engine.checkpoints import write_torch

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn


@HOOKS.register_module()
class ClientUpdateHook(Hook):
    """Write the weights after a client's round, the number of its images and its mean loss.

    Everything of the model's state dict but its snapshots, which are the round's beginning.

    Args:
        out: The file.
    """

    def __init__(self, out: str) -> None:
        self.out = Path(out)

    def after_train(self, runner: Runner) -> None:
        """Write the file; in several processes the first does."""
        if not is_main_process():
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        scalars = runner.message_hub.log_scalars
        loss = float(scalars["train/loss"].mean()) if "train/loss" in scalars else None
        content = dict(state_dict=shared_state(model), images=len(runner.train_dataloader.dataset), loss=loss)
        write_torch(self.out, content)


def shared_state(model: nn.Module) -> dict[str, Tensor]:
    """What of a model's state dict is averaged, on the CPU: all but snapshots, which are copies of it."""
    return {
        name: value.detach().cpu()
        for name, value in model.state_dict().items()
        if not name.startswith(SNAPSHOTS)
    }
