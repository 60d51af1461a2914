"""Hook that writes what a client sends at the end of its round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lad.datasets.coverage import innermost
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

    The weights are those that a checkpoint of the round's end has in its ``state_dict``, which are the averaged ones
    with an ``EMAHook``: all but snapshots, which are the round's beginning.

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
        checkpoint = dict(
            meta=dict(epoch=runner.epoch, iter=runner.iter), state_dict=on_cpu(model.state_dict())
        )
        # What hooks do to a checkpoint: EMAHook puts its averages into the state dict.
        runner.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        images = count_images(runner.train_dataloader.dataset)
        write_torch(self.out, dict(state_dict=shared(checkpoint["state_dict"]), images=images, loss=loss))


def count_images(dataset: Any) -> int:
    """Number of different images of a built training data set, however often its wrappers repeat them.

    Args:
        dataset: A data set, or wrappers of one or several. Several that share images are told apart by ``img_path``.
    """
    parts = list(innermost(dataset))
    if not parts:
        return len(dataset)
    if len(parts) == 1:
        return len(parts[0])
    infos = (
        (number, part.get_data_info(index)) for number, part in enumerate(parts) for index in range(len(part))
    )
    return len({info.get("img_path", (number, info["sample_idx"])) for number, info in infos})


def shared_state(model: nn.Module) -> dict[str, Tensor]:
    """What of a model's state dict is averaged, on the CPU: see :func:`shared`."""
    return shared(on_cpu(model.state_dict()))


def on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with its entries on the CPU, without gradients."""
    return {name: value.detach().cpu() for name, value in state.items()}


def shared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a state dict is averaged: all but snapshots, which are copies of it."""
    return {name: value for name, value in state.items() if not name.startswith(SNAPSHOTS)}
