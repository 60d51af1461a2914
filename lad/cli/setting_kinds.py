"""What kind of value a setting takes, by the annotation and the default of the parameter that it is given to."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

NUMBER, FLAG, TEXT, DICT, SERIES = "a number", "True or False", "a text", "a dict", "a list"
#: Beside the kind itself, what works in its place: True counts as 1, and 0 as False.
_WORKS_AS = {NUMBER: {NUMBER, FLAG}, FLAG: {FLAG, NUMBER}}
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_LISTS = (list, tuple, set, frozenset)
_SEQUENCES = (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)


@dataclass(frozen=True)
class Expected:
    """What a parameter takes.

    Attributes:
        kinds: The kinds, named for messages.
        items: The kinds of the items of a list; empty if they are unknown.
        named: What messages call it; empty for the kinds.
    """

    kinds: frozenset[str]
    items: frozenset[str] = frozenset()
    named: str = ""

    def __or__(self, other: Expected) -> Expected:
        # Items are known where they are in all lists that are taken.
        known = [one.items for one in (self, other) if SERIES in one.kinds]
        items = frozenset().union(*known) if all(known) else frozenset()
        return Expected(self.kinds | other.kinds, items)

    def refuses(self, value: Any) -> str | None:
        """How a value contradicts, for a message: ``must be a number``; None if it does not.

        None and objects that are built already never do. Annotations are often narrower than the code in one respect:
        what they call one thing may be a list of such things, and the reverse.
        """
        if not self.kinds or self._takes(value):
            return None
        if self.named:
            return f"must be {self.named}"
        names = [
            f"{one} of numbers" if one == SERIES and self.items == {NUMBER} else one
            for one in (NUMBER, FLAG, TEXT, SERIES, DICT)
            if one in self.kinds
        ]
        return f"must be {' or '.join(names)}"

    def _takes(self, value: Any) -> bool:
        kind = kind_of_value(value)
        if kind is None or any(kind in _WORKS_AS.get(one, {one}) for one in self.kinds - {SERIES}):
            return True
        if kind != SERIES:
            # One for all feature maps.
            return SERIES in self.kinds and (kind == NUMBER and self.items <= {NUMBER, FLAG})
        if SERIES in self.kinds and self.items != {NUMBER}:
            return True
        items = Expected(frozenset({NUMBER}) if SERIES in self.kinds else self.kinds - {FLAG})
        return all(items._takes(item) for item in value) and bool(items.kinds)


def kind_of_value(value: Any) -> str | None:
    """The kind of a value in a config; None for None and for objects."""
    if isinstance(value, bool):
        return FLAG
    for kinds, name in (
        ((int, float), NUMBER),
        ((str,), TEXT),
        ((Mapping,), DICT),
        ((list, tuple), SERIES),
    ):
        if isinstance(value, kinds):
            return name
    return None


def of_annotation(hint: Any) -> Expected | None:
    """What an annotation says; None if it says anything, or nothing that is understood here."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (int, float, numbers.Number) or hint is Tensor:
        # No config holds tensors: who takes one takes a number as well.
        return Expected(frozenset({NUMBER}))
    if hint is bool:
        return Expected(frozenset({FLAG}))
    if hint is str:
        return Expected(frozenset({TEXT}))
    if hint is type(None):
        return Expected(frozenset())
    if origin is typing.Literal:
        kinds = [kind_of_value(value) for value in arguments if value is not None]
        return None if None in kinds else Expected(frozenset(kind for kind in kinds if kind))
    if origin in (typing.Union, types.UnionType):
        parts = [of_annotation(part) for part in arguments]
        known = [part for part in parts if part is not None]
        return functools.reduce(Expected.__or__, known) if len(known) == len(parts) else None
    base = origin or hint
    if not isinstance(base, type):
        return None
    if issubclass(base, _MAPPINGS):
        return Expected(frozenset({DICT}))
    if base in _LISTS or base in _SEQUENCES:
        parts = [of_annotation(part) for part in arguments if part is not Ellipsis]
        items = frozenset().union(*(part.kinds for part in parts if part)) if all(parts) else frozenset()
        # A text is a sequence of texts.
        takes_text = base in _SEQUENCES and (not items or TEXT in items)
        return Expected(frozenset({SERIES, TEXT}) if takes_text else frozenset({SERIES}), items)
    return None


def of_default(default: Any) -> Expected | None:
    """What a default says by itself: nothing but that another kind than its own fails; None if nothing.

    Where there is a number, a list often works too (one for each feature map), and any value may stand for a flag or a
    text.
    """
    kind = kind_of_value(default)
    if kind == NUMBER:
        return Expected(frozenset({NUMBER, SERIES, DICT}), named=NUMBER)
    if kind == DICT:
        return Expected(frozenset({DICT, SERIES, FLAG}), named=DICT)
    if kind == SERIES and len(default):
        kinds = {kind_of_value(item) for item in default}
        if kinds == {NUMBER}:
            return Expected(frozenset({SERIES, NUMBER, DICT}), frozenset({NUMBER}), "a list of numbers")
    return None


def _own(default: Any) -> Expected:
    """The kind of a default, which is right whatever the annotation says."""
    kind = kind_of_value(default)
    if kind != SERIES:
        return Expected(frozenset({kind} if kind else ()))
    if not default:
        return Expected(frozenset())
    items = {kind_of_value(item) for item in default}
    return Expected(frozenset({SERIES}), frozenset() if None in items else frozenset(filter(None, items)))


def _read(annotation: Any, function: Callable) -> Any:
    """An annotation that is written as a text; Any where only type checkers know its names."""
    if not isinstance(annotation, str):
        return annotation
    holder = types.SimpleNamespace(__annotations__={"hint": annotation})
    try:
        known = getattr(inspect.unwrap(function), "__globals__", {})
        return typing.get_type_hints(holder, globalns=known, localns={})["hint"]
    except Exception:
        return Any


@functools.cache
def expected_settings(function: Callable) -> tuple[Mapping[str, Expected | None], bool]:
    """What the parameters of a function or method take, and whether it takes others by ``**``."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C
        return {}, True
    settings: dict[str, Expected | None] = {}
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        hint, default = _read(parameter.annotation, function), parameter.default
        if hint is parameter.empty:
            settings[name] = of_default(default)
        else:
            says = of_annotation(hint)
            settings[name] = None if says is None or not says.kinds else says | _own(default)
    others = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return settings, others


def expected_setting(kind: Callable, name: str) -> Expected | None:
    """What a class or function takes for a setting; None if anything, or if it is unknown.

    A constructor with ``**kwargs`` is taken to hand them to the constructors of its bases.
    """
    if not isinstance(kind, type):
        return expected_settings(kind)[0].get(name)
    for base in kind.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        settings, others = expected_settings(vars(base)["__init__"])
        if name in settings:
            return settings[name]
        if not others:
            return None
    return None
