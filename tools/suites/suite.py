"""Suites: the trainings that are compared, and the claims about them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Network:
    """One trained detector of an entry; one row of the table.

    Attributes:
        row: Name of the row in claims and baselines: the entry's name, or ``entry.network`` for an entry of several
            networks.
        name: Name of the network in the training config; empty for an entry that trains one detector.
        title: Displayed name.
        baseline: Row that it is compared with, or None.
    """

    row: str
    name: str
    title: str
    baseline: str | None


@dataclass(frozen=True)
class Need:
    """A training whose final checkpoint, or detections, another training uses, and which must be finished before it.

    Attributes:
        entry: Name of the entry.
        seed: One of the entry's seeds; None for the seed of the training that needs it.
        detect: ``--cfg-options`` with which its detector writes the detections that are needed in the place of its
            checkpoint; None for the checkpoint.
    """

    entry: str
    seed: int | None
    detect: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Entry:
    """One configuration, trained with each of its seeds.

    Attributes:
        name: Name of the entry, and of its folder.
        title: Displayed name.
        config: Training config, relative to the project.
        seeds: Seeds; one training each.
        networks: The detectors that a training leaves behind, which are evaluated; none of one that others need and
            that detects nothing.
        options: Overrides as in ``--cfg-options``; they take precedence over the suite's. ``'{teacher}'`` is replaced
            by the checkpoint of the need ``teacher``, or its detections.
        needs: Trainings whose checkpoints or detections the options name.
        evaluate_with: Plain config of the detector, where the training config is of another project's distillation
            detector; None for the config itself (a distillation is reduced to its deployed network).
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
    """Statement that row ``better`` has a higher mAP than row ``than``.

    Attributes:
        better, than: Rows of the table.
        decides: Whether the claim's verdict depends on it; False shows the difference for information.
    """

    better: str
    than: str
    decides: bool = True


@dataclass(frozen=True)
class Claim:
    """A hypothesis about the results: it holds if all of its deciding statements hold."""

    text: str
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class Suite:
    """Entries that are trained alike and compared.

    Attributes:
        name: Name of the suite, and of its folder.
        title: Title of the report.
        entries: Entries by name, in the order of the table.
        options: ``--cfg-options`` of every training and evaluation.
        schedule: Likewise; kept apart so that a suite states in one place where it deviates from the configs' schedule.
        claims: Hypotheses to be judged by the results.
        archive: File of its archived results, which need not be there; None without one.
    """

    name: str
    title: str
    entries: Mapping[str, Entry]
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    archive: Path | None = None

    @property
    def networks(self) -> dict[str, Network]:
        """The rows of the table by name."""
        return {network.row: network for entry in self.entries.values() for network in entry.networks}

    def entry_of(self, row: str) -> Entry:
        """The entry that a row belongs to."""
        return self.entries[row.partition(".")[0]]

    def options_of(self, entry: Entry) -> dict[str, Any]:
        """The options of one entry's trainings, with placeholders unfilled."""
        return {**self.options, **self.schedule, **entry.options}


def placeholders(options: Any) -> set[str]:
    """Names in braces in a string, or in the strings nested in a mapping or list."""
    return {name for text in _strings(options) for name in re.findall(r"{(\w+)}", text)}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
