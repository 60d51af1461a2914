"""What a suite trains and what it claims: a YAML file as frozen dataclasses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lad.errors import ConfigError, nearest

import yaml

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Network:
    """One trained detector of an entry, one row of the table.

    Attributes:
        row: How claims and baselines call it: the entry's name, or ``entry.network`` of a co-learning entry.
        name: The name that a co-learning config gives it; empty for the one detector of other configs.
        title: For people.
        baseline: The row that it is compared with, or None.
    """

    row: str
    name: str
    title: str
    baseline: str | None


@dataclass(frozen=True)
class Need:
    """A training that must be finished before another starts: its final checkpoint is wanted."""

    entry: str
    seed: int


@dataclass(frozen=True)
class Entry:
    """One configuration, trained with each of its seeds.

    Attributes:
        name: Name of its folder.
        title: For people.
        config: The training config, relative to the project.
        seeds: One training each.
        options: As ``--cfg-options``, above those of the suite. ``'{teacher}'`` stands for the checkpoint of the need
            ``teacher``.
        needs: Trainings whose checkpoints the options name.
        networks: The detectors it leaves behind.
        evaluate_with: The plain config of the detector, where the training config is one of another project's
            distillation detectors; None for the config itself (a distillation is reduced to its student).
    """

    name: str
    title: str
    config: str
    seeds: tuple[int, ...]
    networks: tuple[Network, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, Need] = field(default_factory=dict)
    evaluate_with: str | None = None


@dataclass(frozen=True)
class Statement:
    """Row ``better`` has a higher mAP than row ``than``.

    Attributes:
        better, than: Rows of the table.
        decides: Whether the claim rests on it; False shows the difference for information.
    """

    better: str
    than: str
    decides: bool = True


@dataclass(frozen=True)
class Claim:
    """What somebody says about the results: all of its statements that decide."""

    text: str
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class Suite:
    """Entries that are trained alike and compared.

    Attributes:
        name: Name of its folder.
        title: Of the report.
        options: ``--cfg-options`` of every training and evaluation.
        schedule: The same; kept apart so that a suite says at one place where it leaves the configs' schedule.
        entries: By name, in the order of the table.
        claims: To be judged by the numbers.
    """

    name: str
    title: str
    entries: Mapping[str, Entry]
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()

    @property
    def networks(self) -> dict[str, Network]:
        """The rows of the table by name."""
        return {network.row: network for entry in self.entries.values() for network in entry.networks}

    def entry_of(self, row: str) -> Entry:
        """The entry that a row belongs to."""
        return self.entries[row.partition(".")[0]]

    def options_of(self, entry: Entry) -> dict[str, Any]:
        """The options of one entry's trainings; placeholders as they are."""
        return {**self.options, **self.schedule, **entry.options}


def load_suite(path: str | Path) -> Suite:
    """Read a suite.

    Raises:
        ConfigError: the file cannot be read, or says what cannot be; the message names the entry and the key.
    """
    path = Path(path)
    if not path.is_file():
        known = sorted(str(file) for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise ConfigError(f"there is no suite {str(path)!r}{nearest(str(path), known)}.")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"suite {path} is not YAML: {' '.join(str(error).split())}.") from error
    return _suite(content, str(path))


def _suite(content: Any, where: str) -> Suite:
    _check_keys(content, ("name", "title", "seeds", "options", "schedule", "entries", "claims"), where)
    for key in ("name", "seeds", "entries"):
        if not content.get(key):
            raise ConfigError(f"{where}: {key!r} is missing.")
    _check_name(content["name"], f"{where}: name")
    seeds = _seeds(content["seeds"], f"{where}: seeds")
    if not isinstance(content["entries"], dict):
        raise ConfigError(f"{where}: entries must be a mapping of names to settings.")
    entries = {
        name: _entry(name, settings, seeds, f"{where}: entry {name!r}")
        for name, settings in content["entries"].items()
    }
    suite = Suite(
        name=content["name"],
        title=str(content.get("title", content["name"])),
        entries=entries,
        options=_options(content.get("options"), f"{where}: options"),
        schedule=_options(content.get("schedule"), f"{where}: schedule"),
        claims=tuple(_claim(claim, f"{where}: claims") for claim in content.get("claims") or ()),
    )
    _check_references(suite, where)
    return suite


def _entry(name: Any, settings: Any, seeds: tuple[int, ...], where: str) -> Entry:
    _check_name(name, where)
    keys = ("title", "config", "seeds", "options", "needs", "baseline", "networks", "evaluate_with")
    _check_keys(settings, keys, where)
    if not isinstance(settings.get("config"), str):
        raise ConfigError(f"{where}: 'config' is missing.")
    title = str(settings.get("title", name))
    if settings.get("networks"):
        if "baseline" in settings or "evaluate_with" in settings:
            raise ConfigError(
                f"{where}: its networks have baselines and configs of their own; leave these out."
            )
        _check_mapping(settings["networks"], f"{where}: networks")
        networks = []
        for part, own in settings["networks"].items():
            own = own or {}
            _check_keys(own, ("title", "baseline"), f"{where}: network {part!r}")
            networks.append(
                Network(
                    f"{name}.{part}", part, str(own.get("title", f"{title}: {part}")), own.get("baseline")
                )
            )
    else:
        networks = [Network(name, "", title, settings.get("baseline"))]
    needs = {}
    _check_mapping(settings.get("needs") or {}, f"{where}: needs")
    for key, need in (settings.get("needs") or {}).items():
        _check_keys(need, ("entry", "seed"), f"{where}: needs.{key}")
        if set(need) != {"entry", "seed"} or not isinstance(need["seed"], int):
            raise ConfigError(f"{where}: needs.{key} must be {{entry: NAME, seed: NUMBER}}.")
        needs[key] = Need(**need)
    options = _options(settings.get("options"), f"{where}: options")
    if settings.get("evaluate_with"):
        for key, value in options.items():
            if key.split(".")[0] == "model" and not placeholders(value):
                raise ConfigError(
                    f"{where}: options: {key} would not reach the detector that is evaluated; put it into the "
                    "entry's config, and into that of evaluate_with."
                )
    return Entry(
        name=name,
        title=title,
        config=settings["config"],
        seeds=_seeds(settings["seeds"], f"{where}: seeds") if "seeds" in settings else seeds,
        networks=tuple(networks),
        options=options,
        needs=needs,
        evaluate_with=settings.get("evaluate_with"),
    )


def _claim(claim: Any, where: str) -> Claim:
    _check_keys(claim, ("text", "better", "than", "statements"), where)
    text = claim.get("text")
    if not isinstance(text, str):
        raise ConfigError(f"{where}: a claim needs 'text'.")
    statements = claim.get("statements", [{key: claim[key] for key in ("better", "than") if key in claim}])
    if not isinstance(statements, list) or not statements or ("statements" in claim and "better" in claim):
        raise ConfigError(f"{where}: {text!r} needs better and than, or a list of such statements.")
    for statement in statements:
        _check_keys(statement, ("better", "than", "decides"), f"{where}: {text!r}")
        if not {"better", "than"} <= set(statement):
            raise ConfigError(f"{where}: {text!r} needs better and than, or a list of such statements.")
        if not isinstance(statement.get("decides", True), bool):
            raise ConfigError(
                f"{where}: {text!r}: decides must be true or false, got {statement['decides']!r}."
            )
    if not any(statement.get("decides", True) for statement in statements):
        raise ConfigError(f"{where}: {text!r} needs a statement that decides.")
    return Claim(text, tuple(Statement(**statement) for statement in statements))


def _check_references(suite: Suite, where: str) -> None:
    rows = suite.networks
    for entry in suite.entries.values():
        own = f"{where}: entry {entry.name!r}"
        for network in entry.networks:
            if network.baseline is not None:
                _check_known(network.baseline, rows, f"{own}: baseline")
        for key, need in entry.needs.items():
            _check_known(need.entry, suite.entries, f"{own}: needs.{key}")
            if need.seed not in suite.entries[need.entry].seeds:
                raise ConfigError(f"{own}: needs.{key}: {need.entry!r} has no seed {need.seed}.")
            if suite.entries[need.entry].networks[0].name:
                raise ConfigError(f"{own}: needs.{key}: {need.entry!r} leaves several networks behind.")
        for wanted in sorted(placeholders(entry.options)):
            _check_known(wanted, entry.needs, f"{own}: options: {{{wanted}}} is not among its needs")
    _check_order(suite, where)
    for claim in suite.claims:
        for statement in claim.statements:
            for row in (statement.better, statement.than):
                _check_known(row, rows, f"{where}: claims: {claim.text!r}")


def _check_order(suite: Suite, where: str) -> None:
    """Refuse trainings that wait for each other."""
    done: set[str] = set()
    waiting = dict(suite.entries)
    while waiting:
        ready = [name for name, entry in waiting.items() if {n.entry for n in entry.needs.values()} <= done]
        if not ready:
            raise ConfigError(f"{where}: entries {', '.join(sorted(waiting))} need each other.")
        done.update(ready)
        for name in ready:
            del waiting[name]


def placeholders(options: Any) -> set[str]:
    """The needs that a text, or the values of options, name in braces, however deep."""
    return {name for text in _texts(options) for name in re.findall(r"{(\w+)}", text)}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _options(options: Any, where: str) -> dict[str, Any]:
    """Options by dotted name; a mapping becomes several of them, a list is one value."""
    if options is None:
        return {}
    _check_mapping(options, where)
    return dict(_flat(options, ""))


def _flat(options: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _seeds(seeds: Any, where: str) -> tuple[int, ...]:
    fits = isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)
    if not fits or len(set(seeds)) < len(seeds):
        raise ConfigError(f"{where} must be a list of different whole numbers, got {seeds!r}.")
    return tuple(seeds)


def _check_keys(settings: Any, known: tuple[str, ...], where: str) -> None:
    _check_mapping(settings, where)
    for key in settings:
        if key not in known:
            close = nearest(str(key), known) or f"; known: {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {key!r}{close}.")


def _check_mapping(settings: Any, where: str) -> None:
    if not isinstance(settings, dict):
        raise ConfigError(f"{where} must be a mapping, got {type(settings).__name__}.")


def _check_name(name: Any, where: str) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name has small letters, digits, '_' and '-' only, got {name!r}.")


def _check_known(name: Any, known: Iterable[str], where: str) -> None:
    known = list(known)
    if name not in known:
        close = nearest(str(name), known) or f"; known: {', '.join(known) or 'none'}"
        raise ConfigError(f"{where}: there is no {name!r}{close}.")
