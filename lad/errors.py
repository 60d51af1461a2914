"""Exceptions for errors that a user can correct, with one-line messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LadError(Exception):
    """Base class of the package's exceptions.

    The message is one line: what is wrong, where, and what to change. The command-line tools print it without a
    traceback.
    """


class MissingPackageError(LadError, ImportError):
    """Package that this one needs and pip has not installed."""


class ConfigError(LadError, ValueError):
    """Invalid config."""


class CheckpointError(LadError, RuntimeError):
    """Checkpoint that is missing, unreadable, unsafe or of another architecture."""


class UnsupportedError(LadError, NotImplementedError):
    """Method applied to a detector that it does not support."""


class NumericalError(LadError, FloatingPointError):
    """Loss that is NaN or infinite."""


class DataError(LadError, RuntimeError):
    """Images or annotations that cannot be trained on."""


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> str:
    """Format the candidates most similar to ``name`` as ``; nearest: a, b``; empty if none is similar."""
    close = difflib.get_close_matches(name, list(candidates), n=count, cutoff=0.5)
    return f"; nearest: {', '.join(close)}" if close else ""


def listed(names: Iterable[str], limit: int = 3) -> str:
    """Format the first names of a list and the number of the others: ``a, b, c and 2 more``."""
    names = list(names)
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
