"""Mistakes that a user can mend, each said in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LadError(Exception):
    """What is wrong, where, and what to change. The command-line tools print it without a traceback."""


class ConfigError(LadError, ValueError):
    """A config that cannot work."""


class CheckpointError(LadError, RuntimeError):
    """A checkpoint that is missing, unreadable, unsafe or of another architecture."""


class UnsupportedError(LadError, NotImplementedError):
    """A method on a detector that it does not fit."""


class NumericalError(LadError, FloatingPointError):
    """A loss that is NaN or infinite."""


class DataError(LadError, RuntimeError):
    """Images or annotations that cannot be trained on."""


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> str:
    """A half sentence naming the candidates closest to ``name``; empty when none is close."""
    close = difflib.get_close_matches(name, list(candidates), n=count, cutoff=0.5)
    return f"; nearest: {', '.join(close)}" if close else ""


def listed(names: Iterable[str], limit: int = 3) -> str:
    """The first names of a long list and how many more there are."""
    names = list(names)
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
