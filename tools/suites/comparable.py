"""Whether the rows of a suite are evaluated on the same thing."""

from __future__ import annotations

from collections.abc import Sequence

from lad.errors import ConfigError, listed
from suites.runs import Run, evaluated_annotations, plain_config


def check_comparable(planned: Sequence[Run]) -> None:
    """Check, before the first training, that all planned runs are evaluated on one file and the same classes.

    Args:
        planned: The runs.

    Raises:
        ConfigError: a run cannot be evaluated, or two are evaluated on different annotations or classes.
    """
    first: tuple[str, str, set[str]] | None = None
    # Runs of an entry differ in their seed alone.
    for run in {run.entry.name: run for run in planned}.values():
        for network in run.entry.networks:
            file, names = evaluated_annotations(plain_config(run, network))
            classes = set(names)
            other, other_file, other_classes = first = first or (network.row, file, classes)
            if file != other_file:
                _refuse(run, f"{network.row!r} is evaluated on {file} and {other!r} on {other_file}")
            if classes != other_classes:
                one_sided = listed(sorted(classes ^ other_classes))
                _refuse(run, f"of {network.row!r} and {other!r} only one is evaluated on {one_sided}")


def _refuse(run: Run, problem: str) -> None:
    raise ConfigError(
        f"{run.suite.name}: {problem}; evaluate both on the same, or give 'evaluate: false' to an entry that others "
        "need and that has no row."
    )
