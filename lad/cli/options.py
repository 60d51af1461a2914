"""Options that several commands have: ``--cfg-options`` and ``--hours``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction


class OptionsAction(DictAction):
    """MMEngine's reading of ``KEY=VALUE`` arguments, whose mistakes are one line.

    Values are Python's numbers, texts, lists and tuples. A dict is none: MMEngine reads ``dict(a=1)`` as a text, and
    within a list it does not end.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Read the arguments; ends the program with one line where one cannot be read."""
        for value in [values] if isinstance(values, str) else values or ():
            try:
                super().__call__(parser, namespace, [value], option_string)
            except (ValueError, AssertionError, RecursionError):
                parser.error(
                    f"{option_string}: {value!r} cannot be read; it must be like train_cfg.max_epochs=3, "
                    "param_scheduler.1.milestones=[8,11] or model.neck.out_channels=64; dicts are set key by key."
                )


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, under MMDetection's name."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=OptionsAction,
        metavar="KEY=VALUE",
        help="override settings of the config, e.g. train_cfg.max_epochs=3 model.methods.0.mode=hard",
    )


def add_hours(parser: argparse.ArgumentParser, then: str) -> None:
    """Add ``--hours``, a positive number.

    Args:
        parser: Of the command.
        then: What happens then, for the help.
    """
    parser.add_argument("--hours", type=_positive, metavar="H", help=f"stop after so many hours{then}")


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return number
