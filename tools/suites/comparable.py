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
    first: tuple[str, str, str] | None = None
    # Runs of an entry differ in their seed alone.
    for run in {run.entry.name: run for run in planned}.values():
        for network in run.entry.networks:
            annotations, classes = evaluated_annotations(plain_config(run, network))
            own = network.row, annotations, listed(sorted(classes), len(classes))
            first = first or own
            for here, there in zip(own[1:], first[1:], strict=True):
                if here != there:
                    raise ConfigError(
                        f"{run.suite.name}: {own[0]!r} is evaluated on {here} and {first[0]!r} on {there}; evaluate "
                        "both on the same, or give 'evaluate: false' to an entry that others need and that has no row."
                    )
