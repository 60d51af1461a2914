"""A federation's server: its model, what becomes of it round by round, and how it goes on after it was stopped."""

from __future__ import annotations

import copy
import hashlib
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lad.base.config import kind_of, load_config, merge_options
from lad.compat.safe_loading import load_safely
from lad.datasets.configured import first_difference
from lad.detectors.configs import PRETRAINING, describes_detectors
from lad.detectors.state import DISTILLATION
from lad.engine.checkpoints import write_torch
from lad.errors import CheckpointError, ConfigError, DataError, listed
from lad.federated.aggregation import State, non_finite, weighted_average
from lad.federated.classes import federation_classes
from lad.federated.client import Task, Update
from lad.federated.evaluation import deployed_state, evaluation_of
from lad.federated.history import History, Round, read_history
from lad.federated.round_names import round_name, round_number
from lad.federated.settings import FederationSettings, federation_of
from lad.federated.update_hook import shared_state
from lad.federated.validation_classes import align_validation
from lad.networks.verified_checkpoint import class_names

import mmengine.runner
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

#: The averaged model as a plain checkpoint, and the folder with the server's state after each of the last two rounds.
GLOBAL, STATES = "global.pth", "states"


@dataclass(frozen=True)
class ServerOptions:
    """What a server is started with.

    Attributes:
        config: Path of the federation's config.
        work_dir: Folder of the server.
        options: Overrides of the config, as ``--cfg-options``.
        seed: Of the federation; None for the config's.
    """

    config: str
    work_dir: str
    options: Mapping[str, Any] | None = None
    seed: int | None = None


class Server:
    """The server of a federation on this machine.

    After each round the averaged weights, as they are and as a plain checkpoint, and the history are in its folder; a
    server that was stopped at any moment goes on with the round after the last finished one.

    Args:
        options: What it is started with.
        tell: Takes messages.

    Raises:
        LadError: the config describes no federation.
    """

    def __init__(self, options: ServerOptions, tell: Callable[[str], None] = print) -> None:
        self.cfg = read_federation(options)
        self.settings: FederationSettings = federation_of(self.cfg)
        self.folder = Path(options.work_dir)
        self.tell = tell
        init_default_scope(self.cfg.get("default_scope", "mmdet"))
        self.classes = federation_classes(self.cfg)
        seed = options.seed if options.seed is not None else (self.cfg.get("randomness") or {}).get("seed")
        self.history = self._history(int(seed or 0))
        #: The config by which its model is evaluated.
        self.evaluated = self._evaluated()
        self._evaluate: Callable[[State], dict[str, float]] | None = None
        self.state = self._restore() if self.history.last is not None else self._initial()
        self._round_began = time.monotonic()
        self._clients: dict[str, Any] = {}
        self._failures: list[str] = []
        self._updated = False

    # -- State ---------------------------------------------------------------------------------------------------------

    @property
    def next_round(self) -> int:
        """Number of the round to come, from 1; 0 before the model that the first begins with is evaluated."""
        return 0 if self.history.last is None else self.history.last + 1

    def _history(self, seed: int) -> History:
        """The history in the folder, or a new one; another federation's is refused."""
        own = self.cfg.to_dict()
        own["federation"] = dict(own["federation"], rounds=None)  # may grow
        config = hashlib.sha256(repr(sorted(own.items())).encode()).hexdigest()
        history = read_history(self.folder)
        if history is None:
            return History(f"{random.SystemRandom().getrandbits(64):016x}", seed, config)
        for what, before, now in (("seed", history.seed, seed), ("config", history.config, config)):
            if before != now:
                raise ConfigError(
                    f"{self.folder} has a federation with another {what}: go on with the same, or give another "
                    "--work-dir."
                )
        return history

    def _evaluated(self) -> Config:
        """The config with its validation data in the federation's classes."""
        cfg = copy.deepcopy(self.cfg)
        if self.classes is not None and cfg.get("val_dataloader") and kind_of(cfg.model) != PRETRAINING:
            for line in align_validation(cfg, self.classes, self.folder / "evaluation"):
                self.tell(line)
        return cfg

    def _initial(self) -> dict[str, Tensor]:
        """The weights that the first round begins with: those of ``load_from``, or random ones of the seed."""
        mmengine.runner.set_random_seed(self.history.seed)
        model = MODELS.build(self.cfg.model)
        model.init_weights()
        if self.cfg.get("load_from"):
            self._load(model, self.cfg.load_from)
        return shared_state(model)

    def _load(self, model: nn.Module, path: str) -> None:
        """Load what the first round begins with; refused if it lacks entries, or its shapes or classes are others."""
        if not Path(path).is_file():
            raise CheckpointError(f"load_from: there is no checkpoint {path!r}.")
        loaded = load_safely(path, map_location="cpu")
        state = loaded.get("state_dict", loaded)
        odd = [
            name
            for name, value in shared_state(model).items()
            if not name.startswith(DISTILLATION) and (name not in state or state[name].shape != value.shape)
        ]
        if odd:
            raise CheckpointError(
                f"load_from: {path} does not fit the detector: {listed(odd, 3)} missing or of another shape."
            )
        self._check_classes(model, path, class_names(loaded.get("meta")))
        model.load_state_dict(state, strict=False)

    def _check_classes(self, model: nn.Module, path: str, known: tuple[str, ...] | None) -> None:
        """Refuse a checkpoint whose outputs mean other classes than the federation's, or the same in another order."""
        # A pretraining has no outputs of classes, and with classes as text they are not the checkpoint's.
        is_fixed = not any(hasattr(module, "language_model") for module in model.modules())
        if known is None or self.classes is None or known == self.classes or not is_fixed:
            return
        if kind_of(self.cfg.model) == PRETRAINING:
            return
        label, first = first_difference(known, self.classes), ""
        if label is not None:
            first = f" (label {label} is {known[label]!r} there, {self.classes[label]!r} here)"
        raise CheckpointError(
            f"load_from: {path} is of the classes {listed(known, 5)}, and the federation's are "
            f"{listed(self.classes, 5)}{first}: give train_dataloader's metainfo the checkpoint's classes in their "
            "order, or another checkpoint."
        )

    def _restore(self) -> dict[str, Tensor]:
        path = self._state_file(self.history.last or 0)
        if not path.is_file():
            raise DataError(
                f"{path} is missing: the federation in {self.folder} cannot go on; give another --work-dir."
            )
        return load_safely(path)

    def _state_file(self, number: int) -> Path:
        return self.folder / STATES / f"{round_name(number)}.pth"

    # -- Rounds --------------------------------------------------------------------------------------------------------

    def begin(self, number: int) -> Task:
        """The task of a round."""
        self._round_began = time.monotonic()
        self._clients, self._failures, self._updated = {}, [], False
        return Task(self.history.federation, number, self.history.seed, self.classes, self.settings.norm)

    def fail(self, reason: str) -> None:
        """Note that a client did not answer, or not usefully."""
        self._failures.append(" ".join(reason.split())[:500])
        self.tell(self._failures[-1])

    def average(self, updates: Mapping[str, Update]) -> dict[str, Tensor]:
        """The weights after a round, from what the clients have sent; as they were where none has anything to send.

        Args:
            updates: By client.

        Raises:
            DataError: no update counts, and this is the last round or none has counted in any round; the round is not
                finished, so that the same federation repeats it. Or no client has an image with labels: where a
                fraction of them trains, at the end of the federation.
        """
        used = {}
        failed = bool(self._failures)
        for name, update in sorted(updates.items()):
            self._clients[name] = update.report
            if update.report.images == 0:
                self.fail(f"client {name} has no image with labels and does not count")
            elif (odd := self._misfit(update.state)) is not None:
                self.fail(f"client {name} does not count: {odd}")
            else:
                used[name] = update
        if not used:
            self._go_over(updates, failed)
            return self.state
        self._updated = True
        weights = [update.report.images for update in used.values()]
        average = weighted_average([update.state for update in used.values()], weights)
        self.state = {name: average[name].to(value.dtype) for name, value in self.state.items()}
        return self.state

    def _go_over(self, updates: Mapping[str, Update], failed: bool) -> None:
        """Go over a round without an update.

        Args:
            updates: By client; none counts.
            failed: Whether other clients have sent none.

        Raises:
            DataError: see :meth:`average`.
        """
        number = self.next_round
        unlabelled = not failed and bool(updates) and not any(one.report.images for one in updates.values())
        if unlabelled and self.settings.fraction == 1:
            raise DataError(
                f"round {number}: no client has an image with labels ({listed(sorted(updates), 10)}): there "
                "is nothing to train on; check their annotation files."
            )
        is_first, is_last = not self.history.was_updated, number >= self.settings.rounds
        # With a fraction, other rounds have clients with labels.
        if (is_first and is_last) if unlabelled else (is_first or is_last):
            first = self._failures[0] if self._failures else "no client was asked"
            raise DataError(
                f"round {number}: no client has sent weights that count; the first failure: {first.rstrip('.')}; the "
                "same command repeats the round."
            )
        self.fail("no client has sent weights that count: the model stays as it was")

    def _misfit(self, state: State) -> str | None:
        if state.keys() != self.state.keys():
            odd = sorted(state.keys() ^ self.state.keys())[0]
            return f"{odd!r} is in one of its model and the server's alone"
        for name, value in state.items():
            if value.shape != self.state[name].shape:
                return f"{name!r} has the shape {tuple(value.shape)}, the server's {tuple(self.state[name].shape)}"
        broken = non_finite(state)
        return None if broken is None else f"{broken!r} has values that are no numbers"

    def finish(self, number: int) -> Round:
        """Evaluate the model after a round, and write everything down."""
        if self._evaluate is None:
            self._evaluate = evaluation_of(self.evaluated, self.folder / "evaluation")
        metrics = {} if self._evaluate is None else self._evaluate(self.state)
        seconds = round(time.monotonic() - self._round_began, 2)
        done = Round(number, metrics, self._clients, self._failures, seconds, self._updated)
        self.history.rounds.append(done)
        # The history last: it says what there is.
        write_torch(self._state_file(number), self.state)
        self._write_deployed()
        self.history.write(self.folder)
        for path in (self.folder / STATES).glob("round_*.pth"):
            of_round = round_number(path.stem)
            if of_round is not None and of_round < number - 1:
                path.unlink()
        return done

    def _write_deployed(self) -> None:
        meta = {} if self.classes is None else dict(dataset_meta=dict(classes=self.classes))
        content = dict(meta=meta, state_dict=deployed_state(self.state))
        write_torch(self.folder / GLOBAL, content)

    def sample(self, names: Iterable[str], number: int) -> list[str]:
        """The clients that train in a round: a function of seed, round and the set of names, in alphabetical order."""
        ordered = sorted(names)
        # Rounded down, but 0.58 of 50, which is 28.999999999999996 in floating point, is 29.
        count = max(1, math.floor(self.settings.fraction * len(ordered) + 1e-6))
        draw = random.Random(f"{self.history.seed}/{number}")
        return sorted(draw.sample(ordered, min(count, len(ordered))))


def read_federation(options: ServerOptions) -> Config:
    """The config of a federation.

    Raises:
        ConfigError: there is no such config, or it describes no training.
    """
    cfg = load_config(options.config)
    merge_options(cfg, options.options or {}, "--cfg-options")
    if not cfg.get("model") or not cfg.get("train_dataloader"):
        raise ConfigError(f"{options.config} has no model or no train_dataloader: it describes no training.")
    if describes_detectors(cfg.model):
        # As in a training: the student's own is the one that counts.
        cfg._cfg_dict.pop("data_preprocessor", None)
    return cfg
