"""One-line error messages of the command-line tools."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lad.cli.blame import original_error, settings_to_blame
from lad.cli.config_settings import has_setting, resolved_settings
from lad.cli.config_types import shown
from lad.cli.file_errors import explain_file_error
from lad.compat.messages import (
    INTERNAL_WARNINGS,
    MMENGINE_NO_CHECKPOINT,
    UnregisteredType,
    unregistered_type,
    without_worker_traceback,
)
from lad.errors import ConfigError, LadError, listed, nearest

import mmdet.registry
from mmengine.registry import Registry, build_from_cfg
from mmengine.runner import Runner


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exit with code 2 and a one-line message on an error that the user can correct.

    With the environment variable ``LAD_TRACEBACK`` the error is raised with its traceback instead. Warnings of MMEngine
    and MMDetection about their own code are suppressed unless Python was started with a warning filter (``-W``,
    ``PYTHONWARNINGS``).
    """
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                for warning in INTERNAL_WARNINGS:
                    warnings.filterwarnings("ignore", warning, UserWarning)
            yield
    except Exception as error:
        message = explain(error)
        if message is None or os.environ.get("LAD_TRACEBACK"):
            raise
    else:
        return
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


#: What Python's own code raises for a value of another type or kind than it expects.
_WRONG_VALUE = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    NotImplementedError,
)


@contextmanager
def config_errors() -> Iterator[None]:
    """Raise :class:`lad.errors.ConfigError` for what a wrong value in a config ends in, while it is built from.

    MMEngine and MMDetection check few types: what is wrong is found wherever the value is first used, by an error of
    Python's own.

    Raises:
        ConfigError: from any such error that :func:`explain` has no line for.
    """
    try:
        yield
    except _WRONG_VALUE as error:
        if explain(error) is not None:
            raise
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"nothing can be built from the config: {type(error).__name__}: {reason} (LAD_TRACEBACK=1 shows where)."
        ) from error


#: What MMEngine builds from a config when a run starts, in part past its registries.
_BUILDERS = tuple(
    getattr(Runner, name).__code__
    for name in (
        "build_train_loop",
        "build_val_loop",
        "build_test_loop",
        "build_optim_wrapper",
        "build_param_scheduler",
        "scale_lr",
    )
)


@contextmanager
def run_errors(runner: Runner) -> Iterator[None]:
    """Raise :class:`lad.errors.ConfigError` for what a wrong value in a config ends in while a run goes on.

    Most values are first used in a step or in a validation. An error of Python's own counts as a mistake in the config
    where the expression that failed has a value of the config in it, of the type that the error names
    (:mod:`lad.cli.blame`), or where MMEngine builds from the config at the start of the run. Any other keeps its
    traceback. The traceback of the former is written to the run's log file.

    Raises:
        ConfigError: names the setting, its value, the error and its place.
    """
    try:
        yield
    except _WRONG_VALUE as error:
        if explain(error) is not None:
            raise
        told = _told_of_run(error, runner)
        if told is None:
            raise
        _log_traceback(error, runner.logger)
        raise ConfigError(told) from error


def _told_of_run(error: Exception, runner: Runner) -> str | None:
    reason = " ".join(without_worker_traceback(str(error)).split())[:300]
    told = f"{type(error).__name__}: {reason}"
    traced = "the traceback is in the log file; LAD_TRACEBACK=1 shows it"
    blamed = settings_to_blame(error, resolved_settings(runner.cfg))
    if blamed:
        place = traceback.extract_tb(original_error(error).__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}, line {place.lineno}, in {place.name}"
        paths = [one.path for one in blamed]
        # What a config names by its file cannot be set on the command line.
        by_option = f" or with --cfg-options {paths[0]}=..." if has_setting(runner.cfg, paths[0]) else ""
        return (
            f"{listed(paths)}: {shown(blamed[0].value)} cannot be used: {told} ({where}): give another value, in the "
            f"config{by_option} ({traced})."
        )
    if any(frame.f_code in _BUILDERS for frame, _ in traceback.walk_tb(error.__traceback__)):
        return f"nothing can be built from the config: {told} ({traced})."
    return None


def _log_traceback(error: Exception, logger: logging.Logger) -> None:
    """Write a traceback to the log files of a logger, and not to the screen."""
    record = logger.makeRecord(
        logger.name,
        logging.ERROR,
        __file__,
        0,
        "The run ended with an error that one line explains; its traceback:",
        (),
        (type(error), error, error.__traceback__),
    )
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def explain(error: Exception) -> str | None:
    """Message for an error that the user can correct; None for any other error."""
    message = str(error)
    if isinstance(error, LadError):
        return without_worker_traceback(message)
    if isinstance(error, KeyError):
        unregistered = unregistered_type(error)
        if unregistered is not None:
            return _explain_unregistered(unregistered)
        message = str(error.args[0]) if error.args else ""
    if isinstance(error, FileNotFoundError) and MMENGINE_NO_CHECKPOINT in message:
        return message
    built = _config_being_built(error)
    if built is None:
        return explain_file_error(error) if isinstance(error, OSError) else None
    reason = message or type(error).__name__
    return f"{built} of the config cannot be built: {reason} (LAD_TRACEBACK=1 shows where)."


def _explain_unregistered(missing: UnregisteredType) -> str:
    known = {
        name
        for registry in vars(mmdet.registry).values()
        if isinstance(registry, Registry) and registry.name == missing.registry
        for part in (registry, registry.parent)
        if part is not None
        for name in part.module_dict
        if isinstance(name, str)
    }
    return (
        f"{missing.name} is not in the {missing.scope}::{missing.registry} registry{nearest(missing.name, known)}. "
        "Check the name, or import its module with custom_imports."
    )


def _config_being_built(error: Exception) -> str | None:
    """The innermost ``dict(type=...)`` that was being built when an error was raised; None if none was."""
    built = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is build_from_cfg.__code__:
            # Before it is assigned, the config itself was refused.
            kind = frame.f_locals.get("obj_type", _ABSENT)
            if kind is _ABSENT:
                built = repr(frame.f_locals.get("cfg"))[:80]
            elif isinstance(kind, type) or callable(kind):
                built = getattr(kind, "__name__", built)
            else:
                built = f"dict(type={kind!r})"
    return built


_ABSENT = object()
