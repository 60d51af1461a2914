"""``federation=dict(...)`` of a config: rounds, clients, and how their weights are averaged."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from lad.base.settings import is_number, is_whole
from lad.datasets.configured import datasets_of
from lad.errors import ConfigError, listed, nearest

from mmengine.config import Config

#: Whether clients take over the average of the batch-norm layers, or keep their own (FedBN).
Norm = Literal["average", "local"]
#: Settings of a client that are no settings of its training data.
OPTIONS = "options"
#: Settings of a client's training that a round decides, and those of an evaluation, which clients have none of.
DECIDED = (
    "federation",
    "randomness.seed",
    "load_from",
    "resume",
    "work_dir",
    "default_hooks.checkpoint.save_best",
    *(f"{part}_{kind}" for part in ("val", "test") for kind in ("dataloader", "evaluator", "cfg")),
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class FederationSettings:
    """Settings of a federated training.

    Attributes:
        rounds: Number of rounds; in each every client trains as long as the config says.
        clients: What is each client's own, by its name: settings of its innermost training data set (``ann_file``,
            ``data_root``, ...), and under ``options`` others, as ``--cfg-options`` has them, but for those that a
            round decides (:data:`DECIDED`).
        norm: ``'average'`` batch-norm layers as all others, or keep each client's ``'local'``: Li et al., "FedBN:
            Federated Learning on Non-IID Features via Local Batch Normalization", ICLR 2021, arXiv 2102.07623. The
            server's model has their average in any case.
        fraction: Share of the connected clients that train in a round, rounded down, at least one.
        min_clients: From the second round on the server waits for so many to be connected; in the first it waits for
            all that ``clients`` names.
        timeout: Seconds after which a round goes on without those that have not answered.
    """

    rounds: int
    clients: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    norm: Norm = "average"
    fraction: float = 1.0
    min_clients: int = 1
    timeout: float = 12 * 3600.0

    def options_of(self, client: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings of a client's training data, and its other options; none of one that is not named."""
        own = dict(self.clients.get(client, {}))
        options = dict(own.pop(OPTIONS, {}))
        return own, options


def federation_of(cfg: Config) -> FederationSettings:
    """The federation that a config describes.

    Raises:
        ConfigError: it has none, or a setting is wrong.
    """
    own = cfg.get("federation")
    if not isinstance(own, dict):
        raise ConfigError(
            "the config has no federation=dict(rounds=8, clients=dict(NAME=dict(ann_file='...'))): it describes no "
            "federated training."
        )
    known = {one.name for one in fields(FederationSettings)}
    for key in own:
        if key not in known:
            raise ConfigError(
                f"federation has no setting {key!r}{nearest(key, known)}; it has {listed(sorted(known))}."
            )
    if "rounds" not in own:
        raise ConfigError("federation needs its number of rounds: federation=dict(rounds=8, ...).")
    _check_number(own, "rounds", is_whole, lowest=1)
    _check_number(own, "min_clients", is_whole, lowest=1)
    _check_number(own, "fraction", is_number, lowest=0, above=True)
    _check_number(own, "timeout", is_number, lowest=0, above=True)
    if own.get("fraction", 1) > 1:
        raise ConfigError(f"federation: fraction must be at most 1, got {own['fraction']!r}.")
    if own.get("norm", "average") not in get_args(Norm):
        raise ConfigError(f"federation: norm must be 'average' or 'local', got {own['norm']!r:.60}.")
    _check_clients(own.get("clients", {}))
    _check_one_data_set(cfg, own.get("clients", {}))
    clients = {name: dict(spec) for name, spec in own.get("clients", {}).items()}
    settings = FederationSettings(**{**own, "clients": clients})
    if clients and settings.min_clients > len(clients):
        raise ConfigError(
            f"federation: min_clients={settings.min_clients}, and there are {len(clients)} clients: it would wait for "
            "ever."
        )
    return settings


def _check_number(
    own: Mapping, key: str, is_kind: Callable[[Any], bool], lowest: float, above: bool = False
) -> None:
    value = own.get(key, 1)
    if not is_kind(value) or not (value > lowest if above else value >= lowest):
        bound = f"above {lowest}" if above else f"{lowest} or more"
        raise ConfigError(f"federation: {key} must be a number {bound}, got {value!r:.60}.")


def _check_clients(clients: Any) -> None:
    if not isinstance(clients, dict):
        raise ConfigError(
            f"federation: clients must be like dict(NAME=dict(ann_file='...')), got {clients!r:.60}."
        )
    for name, spec in clients.items():
        check_client_name(name)
        if not isinstance(spec, dict) or not isinstance(spec.get(OPTIONS, {}), dict):
            raise ConfigError(
                f"federation.clients.{name} must be a dict of settings of its training data, such as "
                f"dict(ann_file='...'), with any others under {OPTIONS}; got {spec!r:.60}."
            )
        for path in _paths(spec.get(OPTIONS, {})):
            decided = next((one for one in DECIDED if path == one or path.startswith(f"{one}.")), None)
            if decided is not None:
                raise ConfigError(
                    f"federation.clients.{name}.{OPTIONS} sets {path}, and each round sets {decided} itself: take it "
                    "out."
                )


def _paths(options: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """The dotted paths of the settings that options override, those of nested dicts included."""
    for key, value in options.items():
        path = f"{within}{key}"
        if isinstance(value, dict) and value:
            yield from _paths(value, f"{path}.")
        else:
            yield path


def _check_one_data_set(cfg: Config, clients: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse settings of a client's training data where there are several data sets, all of which would get them."""
    datasets = list(datasets_of((cfg.get("train_dataloader") or {}).get("dataset")))
    for name, spec in clients.items():
        own = sorted(set(spec) - {OPTIONS})
        if own and len(datasets) > 1:
            raise ConfigError(
                f"federation.clients.{name} sets {listed(own)} of its training data, and train_dataloader has "
                f"{len(datasets)} data sets that would all get it: set each one's under {OPTIONS}, such as "
                "'train_dataloader.dataset.datasets.0.ann_file'."
            )


def check_client_name(name: object) -> None:
    """Refuse a name that is no folder's on every system.

    Raises:
        ConfigError: says what a name is.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"a client's name has letters, digits, - and _ alone, got {name!r:.60}.")
