"""Schedules: weights and temperatures that are functions of a step's place in the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from lad.base.progress import Progress
from lad.base.settings import is_number, is_whole
from lad.errors import ConfigError, nearest

#: How far a schedule has come from its start (0) to its end (1), by the completed part of its length in [0, 1].
RAMPS: dict[str, Callable[[float], float]] = {
    "constant": lambda part: 1.0,
    "linear": lambda part: part,
    "cosine": lambda part: (1 - math.cos(math.pi * part)) / 2,
    # Not 0 at the beginning but e^-5, as in Laine & Aila, "Temporal Ensembling for Semi-Supervised Learning", ICLR
    # 2017, arXiv 1610.02242, Sec. 3.
    "exponential": lambda part: math.exp(-5 * (1 - part) ** 2),
}


@dataclass(frozen=True)
class Schedule:
    """A number that is a function of a step's place in the run, and of nothing else.

    It is ``start + (end - start) ramp(part)``, where ``part`` in [0, 1] is the completed part of its length:

    =============  ======================  ======================================
    ``type``       ramp                    known from
    =============  ======================  ======================================
    constant       1                       (a plain number in a config)
    linear         part
    cosine         (1 - cos(pi part)) / 2  learning rates
    exponential    e^(-5 (1 - part)^2)     warm-up of weights (FFSD, mean teacher)
    =============  ======================  ======================================

    A run that is resumed continues with the same values.

    Attributes:
        end: The value that it reaches and then keeps.
        start: The value that it comes from.
        type: A key of :data:`RAMPS`.
        iters: Its length in iterations, or
        epochs: in epochs, counted in whole ones: the value changes when an epoch begins. Neither: the whole run. Where
            the length of the run is unknown, the value stays that of the first step.
        begin: Number of the iteration or epoch, from 0, in which it leaves ``start``.

    Example:
        >>> from lad.base.progress import Progress
        >>> from lad.base.schedules import Schedule
        >>> weight = Schedule(1.0, start=0.0, type="linear", epochs=4)
        >>> tuple(weight.at(Progress(epoch=epoch)) for epoch in range(6))
        (0.0, 0.25, 0.5, 0.75, 1.0, 1.0)
    """

    end: float
    start: float = 0.0
    type: str = "constant"
    iters: int | None = None
    epochs: int | None = None
    begin: int = 0

    @property
    def is_zero(self) -> bool:
        """Whether it is 0 throughout, so that what it weights need not be computed."""
        return self.end == 0 and (self.start == 0 or self.type == "constant")

    @property
    def unit(self) -> str:
        """What its length counts, as in :class:`Window`: ``'iters'``, ``'epochs'`` or ``'part'`` of the run."""
        return "iters" if self.iters is not None else "epochs" if self.epochs is not None else "part"

    def at(self, progress: Progress) -> float:
        """The value at a place in a run."""
        return self.start + (self.end - self.start) * RAMPS[self.type](self._part(progress))

    def _part(self, progress: Progress) -> float:
        if self.iters is not None:
            return min(max(progress.iteration - self.begin, 0) / self.iters, 1.0)
        if self.epochs is not None:
            return min(max(progress.epoch - self.begin, 0) / self.epochs, 1.0)
        return min(progress.fraction, 1.0)


def build_schedule(
    config: float | dict | Schedule,
    owner: str,
    above: float | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Schedule:
    """Build a schedule from a setting: a number, or ``dict(type='cosine', start=1.0, end=0.0)``.

    Args:
        config: The setting; see :class:`Schedule` for the keys. ``end`` is required, ``start`` is 0 by default, and one
            of ``iters`` and ``epochs`` may be given, with ``begin``.
        owner: What it sets, for messages: ``'SelfDistillation: alpha'``.
        above: Bound below which, and at which, no value may be.
        minimum, maximum: Bounds that are allowed themselves.

    Raises:
        ConfigError: it is no such setting, or a value is out of bounds.

    Example:
        >>> from lad.base.progress import Progress
        >>> from lad.base.schedules import build_schedule
        >>> build_schedule(dict(type="exponential", end=1.0, epochs=5), "loss_weight").at(Progress(epoch=5))
        1.0
    """
    if isinstance(config, dict):
        schedule = _from_dict(config, owner)
    elif isinstance(config, Schedule):
        schedule = config
    else:
        schedule = Schedule(config)
    # The start of a constant is never reached.
    values = (
        {"end": schedule.end} if schedule.type == "constant" else dict(start=schedule.start, end=schedule.end)
    )
    for key, value in values.items():
        place = f"{owner} ({key})" if isinstance(config, dict) else owner
        _check_value(value, place, above, minimum, maximum)
    return schedule


def _from_dict(config: dict[str, Any], owner: str) -> Schedule:
    config = dict(config)
    kind = config.setdefault("type", "constant")
    if not isinstance(kind, str) or kind not in RAMPS:
        raise ConfigError(
            f"{owner}: there is no schedule {kind!r}{nearest(str(kind), RAMPS)}; there are {', '.join(RAMPS)}."
        )
    wrong = sorted(set(config) - {field.name for field in fields(Schedule)})
    if wrong or "end" not in config:
        reason = f"{wrong[0]!r} is no key of a schedule" if wrong else "a schedule needs end"
        raise ConfigError(
            f"{owner}: {reason}; it is a number, or like dict(type='cosine', start=1.0, end=0.0, epochs=5)."
        )
    lengths = {unit: config[unit] for unit in ("iters", "epochs") if config.get(unit) is not None}
    if len(lengths) > 1:
        raise ConfigError(f"{owner}: a schedule has a length in iters or in epochs, not in both.")
    for unit, length in lengths.items():
        if not is_whole(length) or length < 1:
            raise ConfigError(
                f"{owner}: {unit} of a schedule must be a positive whole number, got {length!r}."
            )
    begin = config.get("begin", 0)
    if not is_whole(begin) or begin < 0 or (begin and not lengths):
        raise ConfigError(
            f"{owner}: begin of a schedule must be a whole number of the iters or epochs that it counts, got {begin!r}."
        )
    return Schedule(**config)


@dataclass(frozen=True)
class Window:
    """A part of a run, such as that in which a method teaches.

    Attributes:
        unit: ``'iters'``, ``'epochs'`` or ``'part'`` (of the run, from 0 to 1).
        begin: Where it begins.
        end: Where it ends, no longer in it; None: never.

    Example:
        >>> from lad.base.progress import Progress
        >>> from lad.base.schedules import Window
        >>> first = Window("epochs", 0, 2)
        >>> [first.covers(Progress(epoch=epoch)) for epoch in range(4)]
        [True, True, False, False]
    """

    unit: str = "part"
    begin: float = 0
    end: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole run."""
        return self.begin == 0 and self.end is None

    def covers(self, progress: Progress) -> bool:
        """Whether a step at a place in the run belongs to it."""
        place = dict(iters=progress.iteration, epochs=progress.epoch, part=progress.fraction)[self.unit]
        return self.begin <= place and (self.end is None or place < self.end)

    def is_apart_from(self, other: Window) -> bool:
        """Whether no step belongs to both, as far as their units tell."""
        if self.unit != other.unit:
            return False
        first, second = sorted((self, other), key=lambda one: one.begin)
        return first.end is not None and first.end <= second.begin

    def __str__(self) -> str:
        what = dict(iters="iterations", epochs="epochs", part="parts of the run")[self.unit]
        return f"{what} from {self.begin:g}" + ("" if self.end is None else f" to before {self.end:g}")


def build_window(config: Any, owner: str) -> Window:
    """Build a window from a setting: ``dict(epochs=(0, 6))``, ``dict(iters=(1000, None))``, ``dict(part=(0.5, 1))``.

    Args:
        config: The setting: where it begins and where it ends, in one unit; None for the whole run.
        owner: What it sets, for messages.

    Raises:
        ConfigError: it is no such setting.
    """
    if config is None:
        return Window()
    if isinstance(config, dict) and len(config) == 1:
        ((unit, bounds),) = config.items()
        pair = isinstance(bounds, (list, tuple)) and len(bounds) == 2
        if unit in ("iters", "epochs", "part") and pair and _are_bounds(unit, *bounds):
            begin, end = bounds
            return Window(unit, begin, None if unit == "part" and end == 1 else end)
    raise ConfigError(
        f"{owner} must be like dict(epochs=(0, 6)), dict(iters=(1000, None)) or dict(part=(0.5, 1)), where it begins "
        f"and where it ends, got {config!r:.80}."
    )


def _are_bounds(unit: str, begin: Any, end: Any) -> bool:
    numbers = [begin] if end is None else [begin, end]
    if not all(map(is_number if unit == "part" else is_whole, numbers)):
        return False
    return begin >= 0 and (end is None or begin < end) and (unit != "part" or max(numbers) <= 1)


def _check_value(
    value: Any, place: str, above: float | None, minimum: float | None, maximum: float | None
) -> None:
    if not is_number(value):
        raise ConfigError(
            f"{place} must be a number, or like dict(type='cosine', start=1.0, end=0.0, epochs=5), got {value!r}."
        )
    if above is not None and not value > above:
        raise ConfigError(f"{place} must be above {above:g}, got {value!r}.")
    if minimum is not None and value < minimum:
        raise ConfigError(f"{place} must be at least {minimum:g}, got {value!r}.")
    if maximum is not None and value > maximum:
        raise ConfigError(f"{place} must be at most {maximum:g}, got {value!r}.")
