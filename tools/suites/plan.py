"""The runs of a suite, and their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lad.errors import ConfigError, nearest
from suites.runs import Run
from suites.suite import Suite


@dataclass(frozen=True)
class Options:
    """Options of executing a suite's runs.

    Attributes:
        only: Entries to run, with the entries that they need; all if empty.
        seeds: Seeds to run; all if empty.
        jobs: Number of parallel trainings.
        rerun_changed: Train again what was trained with another config; the old folder is kept beside the new one.
        use_archive: Leave out what is archived (:mod:`suites.archive`).
        hours: Time after which what runs is stopped, the most informative runs first; None for no limit.
    """

    only: Sequence[str] = ()
    seeds: Sequence[int] = ()
    jobs: int = 1
    rerun_changed: bool = False
    use_archive: bool = True
    hours: float | None = None


def plan(suite: Suite, root: Path, options: Options) -> list[Run]:
    """The runs of a suite, seed by seed, each after those that it needs.

    Raises:
        ConfigError: the options name an entry or a seed that the suite does not have.
    """
    for name in options.only:
        if name not in suite.entries:
            raise ConfigError(f"--only: there is no entry {name!r}{nearest(name, suite.entries)}.")
    known = sorted({seed for entry in suite.entries.values() for seed in entry.seeds})
    for seed in options.seeds:
        if seed not in known:
            raise ConfigError(f"--seeds: the suite has no seed {seed}; it has {', '.join(map(str, known))}.")
    chosen: dict[str, Run] = {}

    def choose(run: Run) -> None:
        for need in run.needs.values():
            choose(need)
        chosen.setdefault(run.name, run)

    for seed in options.seeds or known:
        for entry in suite.entries.values():
            if seed in entry.seeds and (not options.only or entry.name in options.only):
                choose(Run(suite, entry, seed, root))
    return list(chosen.values())
