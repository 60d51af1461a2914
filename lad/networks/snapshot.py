"""Frozen copies of a trained network, taken during the run."""

from __future__ import annotations

import copy
import logging
from typing import Literal, get_args

from lad.base.progress import Progress
from lad.errors import ConfigError, listed, nearest
from lad.networks.frozen import FrozenTeacher
from lad.networks.preprocessing import Renormalisation

import torch
from mmdet.models.detectors import BaseDetector
from mmengine.logging import print_log
from torch import Tensor, nn

#: When a snapshot is taken: before the first step of the run, or before the first step of each epoch.
At = Literal["start", "epoch"]
#: Entry of a saved snapshot that holds the epoch in which it was taken.
TAKEN = "taken_in_epoch"


class Snapshot(FrozenTeacher):
    """Frozen teacher with the weights that a trained network had earlier in the run.

    It is saved with the checkpoint, so that a resumed run goes on with the same teacher.

    Args:
        source: Name of the network that it copies.
        network: That network, or a module of it and more.
        renormalisation: From the detector's images to the network's.
        at: When it is taken; see :data:`At`.
    """

    def __init__(self, source: str, network: nn.Module, renormalisation: Renormalisation, at: At) -> None:
        # A detached copy: parameters are replaced in place at each snapshot.
        super().__init__(copy.deepcopy(network), copy.deepcopy(renormalisation))
        self.source = source
        self.at = at
        self.taken_in_epoch: int | None = None

    def update(self, network: nn.Module, progress: Progress) -> None:
        """Copy the weights of ``network`` if a snapshot is due at this step.

        One is due at the first step of a run in any case: what was loaded then is another run's.
        """
        first = self.taken_in_epoch is None or progress.iteration == 0
        due = first or (self.at == "epoch" and self.taken_in_epoch != progress.epoch)
        if due and not self._is_copy:
            self._copy_state(network.state_dict())
            self.taken_in_epoch = progress.epoch

    @torch.no_grad()
    def _copy_state(self, state: dict[str, Tensor]) -> None:
        for name, value in self.model.state_dict().items():
            value.copy_(state[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and the epoch of the snapshot; empty before the first one."""
        if self.taken_in_epoch is None:
            return {}
        return {**self.model.state_dict(), TAKEN: torch.tensor(self.taken_in_epoch)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned; does nothing in a copy (EMA), which shares the network."""
        if self._is_copy or TAKEN not in state:
            return
        own = self.model.state_dict()
        if any(name not in state or state[name].shape != value.shape for name, value in own.items()):
            print_log(
                f"The checkpoint's snapshot is of another network than {self.source!r} is now; it is left out, and a "
                "new one is taken at the next step.",
                logger="current",
                level=logging.WARNING,
            )
            return
        self._copy_state(state)
        self.taken_in_epoch = int(state[TAKEN])


def is_snapshot(spec: object) -> bool:
    """Whether a teacher's config is that of a snapshot of a trained network."""
    return isinstance(spec, dict) and "snapshot_of" in spec


def check_snapshot(name: str, spec: dict, networks: dict[str, BaseDetector]) -> None:
    """Refuse a snapshot's config that is no ``dict(snapshot_of=NETWORK, at='start')``.

    Raises:
        ConfigError: unknown network, time or key.
    """
    if not isinstance(spec["snapshot_of"], str) or spec["snapshot_of"] not in networks:
        raise ConfigError(
            f"teachers.{name}: snapshot_of names no trained network {spec['snapshot_of']!r}"
            f"{nearest(str(spec['snapshot_of']), networks)}; there are {listed(networks, 5)}."
        )
    unknown = sorted(set(spec) - {"snapshot_of", "at"})
    if unknown or spec.get("at", "start") not in get_args(At):
        raise ConfigError(
            f"teachers.{name}: a snapshot is dict(snapshot_of='NETWORK', at='start' or 'epoch'), got {dict(spec)!r}."
        )
