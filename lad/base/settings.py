"""Checks of settings that are of one kind everywhere."""

from __future__ import annotations

from typing import Any

from lad.errors import ConfigError


def checked_flag(owner: str, setting: str, value: Any) -> bool:
    """A setting that is on or off; a word such as 'no' would be on.

    Raises:
        ConfigError: it is neither True nor False.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{owner}: {setting} must be True or False, got {value!r:.60}.")
    return value
