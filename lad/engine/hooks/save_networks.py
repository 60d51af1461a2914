"""Checkpoints of each of several trained networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lad.compat.safe_loading import load_safely
from lad.detectors.inspection import trained_networks
from lad.engine.checkpoints import write_torch
from lad.engine.model import detector_of
from lad.errors import ConfigError

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor


@HOOKS.register_module()
class SaveNetworksHook(Hook):
    """Writes each of several trained networks as a plain MMDetection checkpoint.

    Beside every ``epoch_3.pth`` or ``best_*.pth`` of the training there is an ``a_epoch_3.pth`` for network ``a``: its
    weights without prefix and the data set's metainfo, nothing else (no optimizer, no config). They are made from the
    file itself, so they hold what it holds (EMA weights, for instance), and they are removed with it
    (``max_keep_ckpts``).
    """

    # After CheckpointHook (VERY_LOW), which writes the files that are split here.
    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        """Refuse models with one trained network, whose checkpoint is a plain one already."""
        model = detector_of(runner)
        self.names = list(trained_networks(model))
        if len(self.names) < 2:
            raise ConfigError(
                f"SaveNetworksHook writes the networks of networks=dict(a=..., b=...) apart, and "
                f"{type(model).__name__} trains one: take the hook out of custom_hooks."
            )
        self._state_of = model.network_state
        self._last: list[Path] = []
        self._find_split(runner)

    @master_only
    def _find_split(self, runner: Runner) -> None:
        """Find the checkpoints that are split already, by the time they were written."""
        folders = {Path(runner.work_dir), *(path.parent for path in _written(runner))}
        files = [path for folder in folders for path in folder.glob("*.pth")]
        self.split = {path: path.stat().st_mtime_ns for path in files if self._is_split(path)}

    def _is_split(self, path: Path) -> bool:
        """Whether every network's file is there and no older than the checkpoint, which may be another run's since."""
        siblings = [_sibling(path, name) for name in self.names]
        return all(file.is_file() and file.stat().st_mtime_ns >= path.stat().st_mtime_ns for file in siblings)

    def state_of(self, name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The part of a checkpoint's state dict that is written for a name, with the keys of a plain detector."""
        return self._state_of(state, name)

    def after_train_iter(self, runner: Runner, batch_idx: int, **kwargs: Any) -> None:
        """Follow checkpoints that are written by iteration."""
        self._follow(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Follow checkpoints that are written by epoch."""
        self._follow(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Follow the best checkpoint."""
        self._follow(runner)

    def after_train(self, runner: Runner) -> None:
        """Follow what was written last."""
        self._last = []
        self._follow(runner)

    @master_only
    def _follow(self, runner: Runner) -> None:
        written = _written(runner)
        if written == self._last:
            return  # runs in every iteration, on file systems that may be slow
        self._last = written
        for path in written:
            if not path.is_file() or self.split.get(path) == path.stat().st_mtime_ns:
                continue
            self.split[path] = path.stat().st_mtime_ns
            checkpoint = load_safely(str(path), map_location="cpu")
            dataset_meta = checkpoint.get("meta", {}).get("dataset_meta")
            for name in self.names:
                state = self.state_of(name, checkpoint["state_dict"])
                content = dict(meta=dict(dataset_meta=dataset_meta), state_dict=state)
                write_torch(_sibling(path, name), content)
            for gone in [path for path in self.split if not path.is_file()]:
                del self.split[gone]
                for name in self.names:
                    _sibling(gone, name).unlink(missing_ok=True)


def _written(runner: Runner) -> list[Path]:
    """The last and the best checkpoints so far, as CheckpointHook notes them."""
    notes = runner.message_hub.runtime_info.items()
    return [Path(path) for key, path in notes if key == "last_ckpt" or key.startswith("best_ckpt")]


def _sibling(path: Path, name: str) -> Path:
    return path.with_name(f"{name}_{path.name}")
