"""Config files as a person would write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

WIDTH = 110


def python(value: Any, indent: int = 0, used: int = 0) -> str:
    """A value of a config as Python text: dicts as ``dict(...)``, on one line where it fits.

    Args:
        value: Of dicts, lists, tuples, texts, numbers and None.
        indent: Of the lines after the first.
        used: Characters that stand before it on its line.
    """
    flat = _flat(value)
    if indent + used + len(flat) <= WIDTH or not isinstance(value, (Mapping, list, tuple)) or not value:
        return flat
    inner = indent + 4
    if isinstance(value, Mapping) and all(str(key).isidentifier() for key in value):
        lines = [f"{key}={python(item, inner, len(str(key)) + 2)}," for key, item in value.items()]
        opening, closing = "dict(", ")"
    elif isinstance(value, Mapping):
        lines = [f"{_flat(key)}: {python(item, inner, len(_flat(key)) + 3)}," for key, item in value.items()]
        opening, closing = "{", "}"
    else:
        lines = [f"{python(item, inner, 1)}," for item in value]
        opening, closing = ("(", ")") if isinstance(value, tuple) else ("[", "]")
    text = "\n".join(" " * inner + line for line in lines)
    return f"{opening}\n{text}\n{' ' * indent}{closing}"


def assignment(name: str, value: Any) -> str:
    """A line, or several, ``name = value``."""
    return f"{name} = {python(value, 0, len(name) + 3)}"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        if all(str(key).isidentifier() for key in value):
            return f"dict({', '.join(f'{key}={_flat(item)}' for key, item in value.items())})"
        return "{" + ", ".join(f"{_flat(key)}: {_flat(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flat, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_flat, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, (str, Path)):
        text = str(value)
        return f'"{text}"' if text.isprintable() and not set(text) & set('"\\') else repr(text)
    return repr(value)
