"""One-line error messages of the command-line tools."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lad.errors import LadError, nearest

import mmdet.registry
from mmengine.registry import Registry, build_from_cfg

# How their messages begin.
INTERNAL_WARNINGS = ("pkg_resources is deprecated", "DeprecationWarning: `num_anchors` is deprecated")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one readable line for a mistake that the user can mend (exit code 2).

    With the environment variable ``LAD_TRACEBACK`` the traceback is shown instead. Warnings of MMEngine and MMDetection
    about their own code, which no user can mend, are not shown unless Python was asked for warnings (``-W``,
    ``PYTHONWARNINGS``).
    """
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                for message in INTERNAL_WARNINGS:
                    warnings.filterwarnings("ignore", message, UserWarning)
            yield
    except Exception as error:
        message = explain(error)
        if message is None or os.environ.get("LAD_TRACEBACK"):
            raise
    else:
        return
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def explain(error: Exception) -> str | None:
    """What to tell a user about an error; None for one that is no mistake of theirs, as far as can be known."""
    message = str(error)
    if isinstance(error, LadError):
        # What a process that loads data raised comes with the traceback of that process.
        return message.strip().splitlines()[-1].split("Error: ", 1)[-1] if "Traceback" in message else message
    if isinstance(error, KeyError):
        # MMEngine's answer to a `type` that nobody registered.
        message = str(error.args[0]) if error.args else ""
        if "registry. Please check whether the value" in message:
            return _unknown_type(message)
    if isinstance(error, FileNotFoundError) and "can not be found" in message:
        # MMEngine's plain statement about load_from and resume.
        return message
    built = _what_was_built(error)
    if built is None:
        return None
    said = message or type(error).__name__
    return f"{built} of the config cannot be built: {said} (LAD_TRACEBACK=1 shows where)."


def _unknown_type(message: str) -> str:
    name, registry = message.split(" is not in the ", 1)[0], message.split(" is not in the ", 1)[1]
    path = registry.split(" registry", 1)[0]
    scope, _, kind = path.partition("::")
    known = [
        name
        for registry in vars(mmdet.registry).values()
        if isinstance(registry, Registry) and registry.name == kind
        for part in (registry, registry.parent)
        if part is not None
        for name in part.module_dict
        if isinstance(name, str)
    ]
    return (
        f"{name} is not in the {scope}::{kind} registry{nearest(name, set(known))}. Check the name, or import its "
        "module with custom_imports."
    )


def _what_was_built(error: Exception) -> str | None:
    """The innermost ``dict(type=...)`` that was being built when an error was raised; None if none was."""
    built = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is build_from_cfg.__code__:
            kind = frame.f_locals.get("obj_type")
            built = f"dict(type={kind!r})" if isinstance(kind, str) else getattr(kind, "__name__", built)
    return built
