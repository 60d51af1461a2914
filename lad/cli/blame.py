"""Which setting of a config an error of Python's own is about, by the expression that failed.

MMEngine and MMDetection check few types: a text for a number goes through every constructor and fails in the first
step, or at the first validation. The traceback then ends in an expression such as ``self.loss_weight * loss``, and one
of its values is the one that stands in the config.
"""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from lad.compat.messages import TORCH_TEXT_TIMES_TENSOR, worker_expressions

from torch import nn

# A dotted name, or a key in quotes.
_NAME = re.compile(r"(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)|(?P<quote>['\"])(?P<key>\w+)(?P=quote)")
#: Texts that messages use for types.
_WORDS: dict[type, tuple[str, ...]] = {
    str: ("str", "string", "sequence"),
    type(None): ("NoneType", "None"),
    bool: ("bool",),
    int: ("int",),
    float: ("float",),
    list: ("list", "sequence"),
    tuple: ("tuple", "sequence"),
    dict: ("dict", "ConfigDict"),
}
#: The more unusual a type among the values of an expression, the more it is to blame.
_ORDER = (str, type(None), dict, list, tuple, bool, float, int)
#: Types of which equal values are everywhere: the name must agree too.
_COMMON = (type(None), bool, int, float)


@dataclass(frozen=True)
class Setting:
    """A value in a config.

    Attributes:
        path: Its dotted name.
        value: The value.
    """

    path: str
    value: Any

    @property
    def name(self) -> str:
        """The last key of the path that is no number of an item in a list."""
        return next((key for key in reversed(self.path.split(".")) if not key.isdigit()), "")


def settings_to_blame(error: BaseException, settings: Mapping[str, Any]) -> list[Setting]:
    """The settings that an error is about; empty where nothing shows that it is about one.

    A setting is to blame where a value of its kind stands in the expression that failed, under its name or, for texts
    and containers, any other, and the error's message names its type (or the text itself). Expressions of callers are
    looked at where the innermost shows nothing.

    Args:
        error: Of the types that Python raises for a wrong value.
        settings: The config, with what it names by files (:func:`lad.cli.config_settings.resolved_settings`).
    """
    message = str(error)
    if TORCH_TEXT_TIMES_TENSOR in message:
        message += " (sequence)"
    known = [one for one in _settings(settings, "") if _is_named(one.value, message)]
    if not known:
        return []
    for expression, frame in _expressions(error):
        found = _in_expression(expression, frame, known)
        if found:
            # Values of one setting may be written in several places of a config.
            odd = min(found, key=lambda one: _ORDER.index(_plain_type(one.value)))
            return [one for one in found if one.value is odd.value or _equal(one.value, odd.value)]
    return []


def original_error(error: BaseException) -> BaseException:
    """The error that another one only repeats: MMEngine's ``call_hook`` raises that of a hook anew, with its name."""
    context = error.__context__
    return error if context is None or not str(context) or str(context) not in str(error) else context


def _settings(config: Any, path: str) -> Iterator[Setting]:
    if path and _plain_type(config) is not None:
        yield Setting(path, config)
    start = f"{path}." if path else ""
    items = config.items() if isinstance(config, Mapping) else enumerate(config) if _is_list(config) else ()
    for key, value in items:
        # What a registry builds has a name, which is not a value that anything is computed from.
        if key not in ("type", "_scope_"):
            yield from _settings(value, f"{start}{key}")


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _plain_type(value: Any) -> type | None:
    return next((kind for kind in (bool, *_ORDER) if isinstance(value, kind)), None)


def _is_named(value: Any, message: str) -> bool:
    """Whether a message names the type of a value, or the value itself if it is a text."""
    kind = _plain_type(value)
    words = _WORDS[kind] if kind is not None else ()
    if kind is str and value and repr(value) in message:
        return True
    return any(re.search(rf"\b{word}\b", message) for word in words)


def _expressions(error: BaseException) -> Iterator[tuple[str, FrameType | None]]:
    """The source of what failed with its frame, from the innermost outwards; of another process without frames."""
    original = original_error(error)
    if original is not error:
        yield from _expressions(original)
    for text in worker_expressions(str(error)):
        yield text, None
    frames = list(traceback.walk_tb(error.__traceback__))
    lines = traceback.extract_tb(error.__traceback__)
    for (frame, _), line in zip(reversed(frames), reversed(lines), strict=True):
        yield _source(line), frame


def _source(line: traceback.FrameSummary) -> str:
    """The expression in a line of a traceback; the whole line before Python 3.11, which does not know the columns."""
    start, end = line.lineno or 0, getattr(line, "end_lineno", None) or line.lineno or 0
    first, last = getattr(line, "colno", None), getattr(line, "end_colno", None)
    text = [linecache.getline(line.filename, number) for number in range(start, end + 1)]
    if first is None or last is None or not text:
        return "".join(text)
    # Columns count bytes.
    encoded = [part.encode() for part in text]
    encoded[-1] = encoded[-1][:last]
    encoded[0] = encoded[0][first:]
    return b"".join(encoded).decode(errors="ignore")


def _in_expression(expression: str, frame: FrameType | None, known: list[Setting]) -> list[Setting]:
    found: dict[str, Setting] = {}
    dicts: list[Mapping] = []
    for match in _NAME.finditer(expression):
        name = match["key"] or match["name"]
        last = name.rpartition(".")[2]
        if frame is None or match["key"]:
            # Of another process the names are known alone; of a key, whose dict may be any.
            found |= {one.path: one for one in known if one.name == last}
            continue
        value = _value(frame, name)
        found |= {one.path: one for one in known if _agrees(one, last, value)}
        if isinstance(value, Mapping):
            dicts.append(value)
    for settings in dicts if not found else ():
        # They were handed on by ``**``.
        for key, value in settings.items():
            found |= {one.path: one for one in known if _agrees(one, str(key), value)}
    return list(found.values())


def _value(frame: FrameType, dotted: str) -> Any:
    """The value of a dotted name in a frame."""
    value: Any = frame.f_locals
    for name in dotted.split("."):
        value = _member(value, name)
    return value


def _member(owner: Any, name: str) -> Any:
    """An attribute or key without running code for it."""
    if isinstance(owner, Mapping):
        return owner.get(name, _ABSENT)
    own = getattr(owner, "__dict__", {})
    if name not in own and isinstance(owner, nn.Module):
        return own.get("_modules", {}).get(name, _ABSENT)
    return own.get(name, _ABSENT)


_ABSENT = object()


def _agrees(setting: Setting, name: str, value: Any) -> bool:
    kind = _plain_type(setting.value)
    if kind is not _plain_type(value) or not _equal(setting.value, value):
        return False
    return setting.name == name or (kind not in _COMMON and bool(value))


def _equal(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:  # of tensors and arrays, comparisons are no truth
        return False
