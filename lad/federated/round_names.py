"""Names of the folders and files of rounds, and the numbers in them."""

from __future__ import annotations

import re

_NAME = re.compile(r"round_(\d+)")


def round_name(number: int) -> str:
    """``round_0001`` for 1. From 10000 on names have more digits: their order as texts is not that of the rounds."""
    return f"round_{number:04d}"


def round_number(name: str) -> int | None:
    """The number in a name of :func:`round_name`; None if it is no such name.

    Example:
        >>> from lad.federated.round_names import round_number
        >>> round_number("round_0012"), round_number("round_10000"), round_number("rounds")
        (12, 10000, None)
    """
    found = _NAME.fullmatch(name)
    return None if found is None else int(found[1])
