"""Temporarily replace an attribute of one instance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ABSENT = object()


@contextmanager
def replaced(owner: object, name: str, value: Any) -> Iterator[None]:
    """Set the attribute ``name`` of one instance to ``value`` within the block.

    The instance is restored on exit, also after an exception; its class is not changed.
    """
    before = owner.__dict__.get(name, _ABSENT)
    owner.__dict__[name] = value
    try:
        yield
    finally:
        if before is _ABSENT:
            del owner.__dict__[name]
        else:
            owner.__dict__[name] = before
