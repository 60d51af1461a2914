"""The optional package faster-coco-eval."""

from __future__ import annotations

import importlib
from types import ModuleType

from lad.errors import ConfigError


def load_faster_coco_eval(needed_by: str) -> ModuleType:
    """Import ``faster_coco_eval``.

    Args:
        needed_by: What asks for it, for the message.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("faster_coco_eval")
    except ImportError as error:
        raise ConfigError(
            f"{needed_by} needs the package faster-coco-eval: pip install faster-coco-eval."
        ) from error
