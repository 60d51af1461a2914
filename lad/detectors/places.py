"""Whether the schedules and windows of a detector's methods have their places in a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lad.base.schedules import Schedule, Window
from lad.detectors.bound import BoundMethod
from lad.detectors.loss_ratio import LossRatio
from lad.errors import ConfigError


def scheduled(methods: Mapping[str, BoundMethod]) -> Iterator[tuple[str, Schedule | Window]]:
    """All that changes with the place in a run, by what it sets: ``'hints: active'``."""
    for name, one in methods.items():
        yield f"{name}: active", one.active
        yield f"{name}: factor", one.factor.ratio if isinstance(one.factor, LossRatio) else one.factor
        for setting, value in vars(one.method).items():
            for each in value.values() if isinstance(value, Mapping) else [value]:
                if isinstance(each, Schedule):
                    yield f"{name}: {setting}", each


def check_places(methods: Mapping[str, BoundMethod], max_epochs: int | None, max_iters: int) -> list[str]:
    """Refuse epochs in a run that counts none, where they would never pass.

    Args:
        methods: A detector's methods by name.
        max_epochs: Length of the run; None if it counts iterations.
        max_iters: Length of the run.

    Returns:
        Warnings: what does not begin before the run is over.

    Raises:
        ConfigError: a schedule or a window counts epochs, and the run does not.
    """
    if max_epochs is None:
        for name, one in methods.items():
            for setting, instead in one.method.counts_epochs.items():
                raise ConfigError(
                    f"{name}: {setting} counts epochs, and this run counts iterations, so that it would stay in the "
                    f"first one: use {instead}, or an epoch-based train_cfg."
                )
    warnings = []
    ends = dict(iters=max_iters, epochs=max_epochs, part=1)
    for setting, value in scheduled(methods):
        if value.unit == "epochs" and max_epochs is None:
            raise ConfigError(
                f"{setting} counts epochs, and this run counts iterations, so that it would stay in the first one: use "
                "iters, a part of the run, or an epoch-based train_cfg."
            )
        end = ends[value.unit]
        if end is not None and value.begin >= end:
            place = (
                f"{value.unit} {value.begin:g}"
                if value.unit != "part"
                else f"part {value.begin:g} of the run"
            )
            warnings.append(
                f"{setting} begins with {place}, and the run has {end} (counted from 0): it never does."
            )
    return warnings
