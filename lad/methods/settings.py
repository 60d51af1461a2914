"""Checks of settings that many methods have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lad.errors import ConfigError


def checked_loss_name(owner: str, name: Any, begins: bool = False) -> str:
    """The name of a loss, which contains 'loss': MMEngine adds up what is called so, and passes over the rest.

    Args:
        owner: What the setting belongs to, for the message.
        name: The setting.
        begins: Whether the name must begin with 'loss'.

    Raises:
        ConfigError: it is no such name.
    """
    if not isinstance(name, str) or "loss" not in name or (begins and not name.startswith("loss")):
        how = "begin with" if begins else "contain"
        raise ConfigError(f"{owner}: loss_name must {how} 'loss', got {name!r:.60}.")
    return name


def checked_classes(
    owner: str, classes: Any, setting: str = "classes", whose: str = "student"
) -> tuple[str, ...] | None:
    """Class names, where a config gives them.

    Args:
        owner: What the setting belongs to, for the message.
        classes: The names; None if there are none.
        setting: What they are called in the config.
        whose: The network that knows them.

    Raises:
        ConfigError: it is no list of names.
    """
    if classes is None:
        return None
    listed = isinstance(classes, Sequence) and not isinstance(classes, str)
    if not listed or not all(isinstance(name, str) for name in classes):
        raise ConfigError(
            f"{owner}: {setting} must be a list of the {whose}'s class names, got {classes!r:.60}."
        )
    return tuple(classes)
