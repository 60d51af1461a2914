"""What is searched: settings of a config and the values that they may take."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lad.base.config import merge_options
from lad.base.settings import is_number
from lad.errors import ConfigError, nearest

from mmengine.config import Config

if TYPE_CHECKING:
    import optuna

_RANGE = re.compile(
    r"^(?P<log>log:)?(?P<low>(?:[^.,:]+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)\.\.(?P<high>.+)$", re.IGNORECASE
)


@dataclass(frozen=True)
class Parameter:
    """A setting that is searched.

    Attributes:
        key: Dotted key, as in ``--cfg-options``.
        low, high: Bounds of a number, both included; NaN for a choice.
        log: Whether a number is searched on a logarithmic scale.
        integer: Whether it is a whole number.
        choices: The values of a choice.
    """

    key: str
    low: float = math.nan
    high: float = math.nan
    log: bool = False
    integer: bool = False
    choices: tuple[bool | int | float | str, ...] = ()

    def suggest(self, trial: optuna.Trial) -> None:
        """Give a trial a value; one that has one keeps it."""
        if self.choices:
            trial.suggest_categorical(self.key, self.choices)
        elif self.integer:
            trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        else:
            trial.suggest_float(self.key, self.low, self.high, log=self.log)

    @property
    def example(self) -> bool | int | float | str:
        """One of the values."""
        if self.choices:
            return self.choices[0]
        return int(self.low) if self.integer else self.low

    def allows(self, value: Any) -> bool:
        """Whether a value is one of those that are searched."""
        if self.choices:
            return value in self.choices
        return (
            is_number(value) and self.low <= value <= self.high and (not self.integer or value == int(value))
        )


def parse_parameter(text: str) -> Parameter:
    """Read ``KEY=0.1..10``, ``KEY=log:0.01..100``, ``KEY=1..8`` (whole numbers) or ``KEY=hard,soft``.

    Raises:
        ConfigError: it is none of these, or its bounds are none.
    """
    key, equals, values = text.partition("=")
    if not equals or not key or not values:
        raise ConfigError(_wrong(text, "it is not like KEY=VALUES"))
    found = _RANGE.match(values)
    if found is None:
        if set("[](){}") & set(values):
            raise ConfigError(
                _wrong(text, "numbers, words, True and False can be searched, and no lists or dicts")
            )
        choices = tuple(_value(one) for one in values.split(","))
        if "None" in choices:
            raise ConfigError(_wrong(text, "None is none of the values that can be searched"))
        if len(set(choices)) < 2:
            raise ConfigError(_wrong(text, "a choice needs two different values at least"))
        return Parameter(key, choices=choices)
    try:
        low, high = float(found["low"]), float(found["high"])
    except ValueError:
        raise ConfigError(_wrong(text, "its bounds are no numbers")) from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(_wrong(text, "the first bound must be below the second"))
    if found["log"] and low <= 0:
        raise ConfigError(_wrong(text, "on a logarithmic scale both bounds must be positive"))
    whole = all(re.fullmatch(r"[+-]?\d+", found[bound]) for bound in ("low", "high"))
    return Parameter(key, low, high, log=bool(found["log"]), integer=whole and not found["log"])


def current_value(cfg: Config, key: str) -> Any:
    """The value of a dotted key in a config; None where there is none."""
    value: Any = cfg
    for name in key.split("."):
        if isinstance(value, (list, tuple)) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, (dict, Config)):
            value = value.get(name)
        else:
            return None
    return value


def check_key(cfg: Config, key: str) -> None:
    """Refuse a dotted key of which a part but the last is nothing in a config; the last may have a default.

    Raises:
        ConfigError: names the part.
    """
    value: Any = cfg
    *parents, _ = names = key.split(".")
    for depth, name in enumerate(parents, 1):
        if isinstance(value, (list, tuple)) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, (dict, Config)) and name in value:
            value = value[name]
        elif isinstance(value, str):
            return  # the path of a config, which has the rest
        else:
            known = value if isinstance(value, (dict, Config)) else ()
            raise ConfigError(
                f"--space {key}: the config has no {'.'.join(names[:depth])}{nearest(name, known)}."
            )


def with_values(cfg: Config, values: Mapping[str, Any], source: str = "the search's values") -> Config:
    """A copy of a config with other values of dotted keys; see :func:`lad.base.config.merge_options`."""
    copied = Config(cfg._cfg_dict.to_dict(), filename=cfg.filename)
    merge_options(copied, values, source)
    return copied


def with_examples(cfg: Config, parameters: Sequence[Parameter]) -> Config:
    """A copy of a config with one of the values of each parameter, to be checked before anything is trained.

    Raises:
        ConfigError: a key does not fit the config.
    """
    tried = with_values(cfg, {one.key: one.example for one in parameters}, "--space")
    for one in parameters:
        check_key(cfg, one.key)
    return tried


def _value(text: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, (bool, int, float, str)) else text


def _wrong(text: str, reason: str) -> str:
    forms = "KEY=0.1..10, KEY=log:0.01..100, KEY=1..8 for whole numbers, or KEY=hard,soft"
    return f"--space {text!r}: {reason}; write {forms}."
