"""A client's round: an ordinary training that begins with the server's weights."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lad.base.config import load_config, merge_options
from lad.compat.safe_loading import load_safely
from lad.datasets.configured import datasets_of
from lad.engine.checkpoints import write_torch, write_whole
from lad.errors import DataError
from lad.federated.aggregation import State, norm_keys
from lad.federated.classes import align_classes
from lad.federated.embedding_evaluation import is_knn_hook
from lad.federated.history import ClientReport
from lad.federated.labels import is_without_labels
from lad.federated.round_names import round_name, round_number
from lad.federated.settings import FederationSettings, Norm, federation_of

import torch
from mmengine.config import Config
from torch import Tensor

#: Files of a round.
CONFIG, INITIAL, UPDATE, NORM = "config.py", "initial.pth", "update.pth", "norm.pth"
LOG, RECEIVED = "train.log", "received.txt"


@dataclass(frozen=True)
class Task:
    """What the server asks of its clients in a round.

    Attributes:
        federation: Tells one federation from another.
        number: Of the round, from 1.
        seed: Of the federation.
        classes: Its class names in the order of the detector's outputs; None where there are none.
        norm: What becomes of a client's batch-norm layers.
    """

    federation: str
    number: int
    seed: int
    classes: tuple[str, ...] | None
    norm: Norm = "average"


@dataclass(frozen=True)
class Update:
    """What a client sends at the end of a round.

    Attributes:
        state: Its weights.
        report: The number of its images and how it trained.
    """

    state: dict[str, Tensor]
    report: ClientReport


class Client:
    """A client of a federation on this machine.

    Its folder has one for each federation, with one for each round: the config of the round's training, its log and
    checkpoints. A round that was interrupted is resumed when the server asks for it again, and a finished one is
    answered without training.

    Args:
        name: Its name.
        config: Path of its training config.
        folder: For its rounds.
        train: Runs the training of a config in a folder, with its output in a file; returns its exit code.
        options: Overrides of the config, as ``--cfg-options``.
        tell: Takes messages.
    """

    def __init__(
        self,
        name: str,
        config: str,
        folder: Path,
        train: Callable[[Path, Path, Path], int],
        options: Mapping[str, Any] | None = None,
        tell: Callable[[str], None] = print,
    ) -> None:
        self.name = name
        self.config = config
        self.folder = folder
        self.train = train
        self.options = dict(options or {})
        self.tell = tell

    def round(self, task: Task, weights: State) -> Update:
        """Train for a round.

        Args:
            task: The round.
            weights: Those that it begins with.

        Returns:
            The weights after it. A client without labels sends them as they came, with 0 images.

        Raises:
            LadError: the training failed, or the client's data do not fit the federation.
        """
        own = self.folder / task.federation
        folder = own / round_name(task.number)
        weights = dict(weights)
        if task.norm == "local":
            weights |= self._own_norm(own, task.number)
        self._begin(folder, weights)
        update = folder / UPDATE
        start = time.monotonic()
        if not update.is_file():
            cfg = self._config(task, folder)
            if is_without_labels(cfg):
                self.tell(
                    f"client {self.name}: no image with labels in its training data: it sends nothing new"
                )
                return Update(weights, ClientReport(images=0))
            cfg.dump(folder / CONFIG)
            code = self.train(folder / CONFIG, folder, folder / LOG)
            if code != 0 or not update.is_file():
                reason = last_line(folder / LOG)
                raise DataError(
                    f"client {self.name}: round {task.number} ended with exit code {code}: {reason}"
                )
        content = load_safely(update)
        state = content["state_dict"]
        if task.norm == "local":
            write_torch(folder / NORM, {name: state[name] for name in norm_keys(state)})
        self._clear(own, task.number)
        report = ClientReport(content["images"], content["loss"], round(time.monotonic() - start, 2))
        return Update(state, report)

    def _begin(self, folder: Path, weights: State) -> None:
        """Keep the weights of a round; what is left of a round with others is removed."""
        received = folder / RECEIVED
        own = fingerprint(weights)
        if received.is_file() and received.read_text() != own:
            shutil.rmtree(folder)
        if not (folder / UPDATE).is_file():
            # As hooks know a checkpoint (EMAHook reads its ``state_dict``).
            write_torch(folder / INITIAL, dict(state_dict=dict(weights)))
        write_whole(received, own.encode())

    def _config(self, task: Task, folder: Path) -> Config:
        cfg = load_config(self.config)
        merge_options(cfg, self.options, "--cfg-options")
        settings = federation_of(cfg)
        cfg = round_config(cfg, settings, self.name, task, folder)
        if task.classes is not None:
            for line in align_classes(cfg, task.classes, self.name, folder):
                self.tell(line)
        return cfg

    def _own_norm(self, own: Path, number: int) -> dict[str, Tensor]:
        """Batch-norm layers after the client's last round before this one; empty before its first."""
        before = _before(own, NORM, number)
        return load_safely(before[max(before)][0]) if before else {}

    def _clear(self, own: Path, number: int) -> None:
        """Remove the checkpoints of the rounds before; their configs, logs and batch-norm layers stay."""
        for paths in _before(own, "*.pth", number).values():
            for path in paths:
                if path.name != NORM:
                    path.unlink()


def _before(own: Path, pattern: str, number: int) -> dict[int, list[Path]]:
    """Files in the folders of the rounds before one, by the number of their round."""
    found: dict[int, list[Path]] = {}
    for path in own.glob(f"round_*/{pattern}"):
        of_round = round_number(path.parent.name)
        if of_round is not None and of_round < number:
            found.setdefault(of_round, []).append(path)
    return found


def round_config(cfg: Config, settings: FederationSettings, client: str, task: Task, folder: Path) -> Config:
    """The config of a client's training in a round, from that of the federation; changed in place.

    It has the client's own settings, the server's weights to begin with, a seed that is a function of the federation's,
    the client and the round, and no validation: the server's validation data are not the client's.

    Args:
        cfg: The config.
        settings: Its federation.
        client: Name of the client.
        task: The round.
        folder: Of the round.
    """
    data, options = settings.options_of(client)
    for dataset in datasets_of(cfg.train_dataloader.dataset):
        dataset.update(data)
    merge_options(cfg, options, f"federation.clients.{client}.options")
    cfg._cfg_dict.pop("federation", None)
    for part in ("val", "test"):
        for key in (f"{part}_dataloader", f"{part}_evaluator", f"{part}_cfg"):
            cfg[key] = None
    checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint")
    if isinstance(checkpoint, dict):
        # The best by a validation that there is none of.
        checkpoint.pop("save_best", None)
    cfg.randomness = dict(cfg.get("randomness") or {}, seed=round_seed(task.seed, client, task.number))
    cfg.load_from = str(folder.resolve() / INITIAL)
    cfg.resume = False
    cfg.work_dir = str(folder.resolve())
    # The server evaluates a pretraining on its own objects.
    others = [hook for hook in cfg.get("custom_hooks") or () if not is_knn_hook(hook)]
    hook = dict(type="ClientUpdateHook", out=str(folder.resolve() / UPDATE))
    cfg.custom_hooks = [*others, hook]
    imports = cfg.get("custom_imports") or dict(imports=[])
    names = [imports["imports"]] if isinstance(imports["imports"], str) else list(imports["imports"])
    cfg.custom_imports = dict(imports, imports=[*names, "lad.federated.update_hook"])
    return cfg


def round_seed(seed: int, client: str, number: int) -> int:
    """Seed of a client's round, from the federation's.

    Example:
        >>> from lad.federated.client import round_seed
        >>> round_seed(0, "a", 1) == round_seed(0, "a", 1) != round_seed(0, "b", 1)
        True
    """
    digest = hashlib.sha256(f"{seed}/{client}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 2**31


def fingerprint(state: State) -> str:
    """Text that two state dicts share only if they are equal."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(
            value.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        )
    return digest.hexdigest()


def last_line(log: Path) -> str:
    """The last line of a training's output: its error, if it had one."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return "no output"
    return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "no output")
