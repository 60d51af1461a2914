"""The number of classes of a model config, wherever it is."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

KEY = "num_classes"
#: Parts that count no classes of the data, or those of a classification.
_NOT_HEADS = ("backbone", "neck", "data_preprocessor", "init_cfg")


def with_classes(model: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What a derived config changes for another number of classes.

    A list, as of a cascade's heads, is given whole: a derived config replaces it.

    Args:
        model: The model's config.
        number: Of classes.

    Returns:
        The changes; empty where the config counts no classes or these.
    """
    changes: dict[str, Any] = {}
    for key, value in model.items():
        if key == KEY and value != number:
            changes[key] = number
        elif key in _NOT_HEADS:
            continue
        elif isinstance(value, Mapping):
            if inner := with_classes(value, number):
                changes[key] = inner
        elif isinstance(value, (list, tuple)) and any(
            isinstance(one, Mapping) and with_classes(one, number) for one in value
        ):
            changes[key] = [_changed(one, number) for one in value]
    return changes


def _changed(value: Any, number: int) -> Any:
    value = copy.deepcopy(value)
    if not isinstance(value, Mapping):
        return value
    return Config._merge_a_into_b(with_classes(value, number), value)
