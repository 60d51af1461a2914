"""The module that stands in for ``mmcv._ext``."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

from lad.mmcv_ops.missing import needs_compiled_mmcv

NAME = "mmcv._ext"


class StandInExtension(ModuleType):
    """Answers for ``mmcv._ext``: kernels that are covered, and a clear error for the others when called.

    mmcv asks at import time only whether an attribute exists, so every public name must exist; an operator
    that is not covered fails when it is called.
    """

    def __init__(self, kernels: dict[str, Callable]) -> None:
        super().__init__(NAME, "mmcv's operators on torchvision and torch kernels")
        # pkgutil and importlib look at the spec of a loaded module.
        self.__spec__ = importlib.machinery.ModuleSpec(NAME, loader=None, origin=__name__)
        self.__dict__.update(kernels)

    def __getattr__(self, name: str) -> Callable:
        if name.startswith("_"):
            raise AttributeError(f"module {NAME!r} has no attribute {name!r}")

        def missing(*args: object, **kwargs: object) -> NoReturn:
            raise needs_compiled_mmcv(repr(name))

        missing.__name__ = name
        return missing


def is_installed() -> bool:
    """Whether ``mmcv._ext`` is this stand-in."""
    return isinstance(sys.modules.get(NAME), StandInExtension)


def install() -> bool:
    """Provide ``mmcv._ext`` unless a compiled one exists; returns whether the stand-in is in place."""
    import mmcv

    if NAME in sys.modules or importlib.util.find_spec(NAME) is not None:
        return is_installed()
    from lad.mmcv_ops.kernels import KERNELS

    extension = StandInExtension(KERNELS)
    sys.modules[NAME] = extension
    mmcv._ext = extension
    return True
