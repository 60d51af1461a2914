"""What a tool needs of the entries of a COCO file, checked when the file is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lad.datasets.coco_file import is_finite, is_number, is_positive, read_coco
from lad.errors import DataError


@dataclass(frozen=True)
class Need:
    """What a value must be.

    Attributes:
        told: The same in words, for messages.
        fits: Whether a value is so.
        optional: The value may be absent.
    """

    told: str
    fits: Callable[[Any], bool]
    optional: bool = False

    def or_none(self) -> Need:
        """The same of a value that may be absent."""
        return replace(self, optional=True)


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(is_number(one) and is_finite(one) for one in value)
    )


ID = Need("a number or a text", lambda value: is_number(value) or isinstance(value, str))
TEXT = Need("a text", lambda value: isinstance(value, str) and value != "")
NUMBER = Need("a finite number", lambda value: is_number(value) and is_finite(value))
LENGTH = Need("a number above 0", is_positive)
BOX = Need("four finite numbers", _is_box)


def read_needed(path: str | Path, needs: Mapping[str, Mapping[str, Need]]) -> dict[str, Any]:
    """Read a COCO file of whose entries a tool needs some keys.

    Args:
        path: The file.
        needs: What it needs of the entries of each list, by key: ``dict(images=dict(id=ID))``. ``annotations`` and
            ``categories`` that are not named may be absent.

    Returns:
        The content, with ``images``, ``annotations`` and ``categories``.

    Raises:
        DataError: it is no COCO file, or an entry lacks what is needed; names the first one, and how many there are.
    """
    content, problems = read_coco(path, annotated="annotations" in needs, labelled="categories" in needs)
    if content is None:
        raise DataError(f"{problems[0]}.")
    for kind, keys in needs.items():
        for key, need in keys.items():
            wrong = [number for number, entry in enumerate(content[kind]) if not _meets(entry, key, need)]
            if wrong:
                entry = content[kind][wrong[0]]
                named = f" (id {entry['id']})" if "id" in entry and key != "id" else ""
                has = f"has {entry[key]!r:.60}" if key in entry else "has none"
                raise DataError(
                    f"{path}: {len(wrong)} of {len(content[kind])} {kind} have no {key} that is {need.told}; the first "
                    f"is entry {wrong[0]}{named}, which {has}: mend it, or take it out."
                )
    return content


def _meets(entry: Mapping[str, Any], key: str, need: Need) -> bool:
    return need.fits(entry[key]) if key in entry else need.optional
