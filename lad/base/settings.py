"""Checks of settings that are of one kind everywhere."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from lad.errors import ConfigError


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number; True and False are none."""
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def check_numbers(
    owner: str,
    *,
    above: float | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    **settings: Any,
) -> None:
    """Refuse settings that are no finite numbers within bounds; ``'3'`` and True are none.

    Args:
        owner: What the settings belong to, for the message.
        above: They must be greater.
        minimum, maximum: They must not be smaller, or greater.
        settings: By their names.

    Raises:
        ConfigError: one is not; the message names it.
    """
    for name, value in settings.items():
        if not is_number(value):
            wanted = "a number"
        elif above is not None and value <= above:
            wanted = f"above {above:g}" if above else "positive"
        elif minimum is not None and maximum is not None and not minimum <= value <= maximum:
            wanted = f"between {minimum:g} and {maximum:g}"
        elif minimum is not None and value < minimum:
            wanted = f"at least {minimum:g}"
        elif maximum is not None and value > maximum:
            wanted = f"at most {maximum:g}"
        else:
            continue
        raise ConfigError(f"{owner}: {name} must be {wanted}, got {value!r:.60}.")


def checked_flag(owner: str, setting: str, value: Any) -> bool:
    """A setting that is on or off; a word such as 'no' would be on.

    Raises:
        ConfigError: it is neither True nor False.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{owner}: {setting} must be True or False, got {value!r:.60}.")
    return value
