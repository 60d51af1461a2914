"""Reading of the config text in a checkpoint without running it."""

from __future__ import annotations

import ast
import math
from typing import Any

#: Value of what is no literal.
UNKNOWN = "<no literal>"


def read_saved_config(text: str) -> dict[str, Any]:
    """Values of a config that MMEngine wrote as Python text (``checkpoint['meta']['cfg']``).

    MMEngine reads it by running it, and a checkpoint is not trusted to that degree. What is no literal or ``dict(...)``
    of literals is :data:`UNKNOWN`.

    Returns:
        The values by name; empty if the text is no Python.
    """
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    values = {}
    for statement in module.body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if isinstance(target, ast.Name):
                values[target.id] = _value(statement.value)
    return values


def _value(node: ast.expr | None) -> Any:
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {key.value: _value(value) for key, value in pairs if isinstance(key, ast.Constant)}
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):
        return math.inf if node.id == "inf" else math.nan
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand)
        return -value if isinstance(value, (int, float)) else UNKNOWN
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        value = {}
        for positional in node.args:
            inner = _value(positional)
            if not isinstance(inner, dict):
                return UNKNOWN
            value.update(inner)
        return value | {word.arg: _value(word.value) for word in node.keywords if word.arg is not None}
    return UNKNOWN
