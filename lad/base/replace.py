"""Temporarily replace an attribute of one instance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ABSENT = object()


@contextmanager
def replaced(owner: object, name: str, value: Any) -> Iterator[None]:
    """Let the attribute ``name`` of one instance be ``value`` while the block runs.

    The instance is as before on leaving the block, after an exception too; its class is not touched.
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
