"""Module ``mmcv._ext`` made of torch and torchvision kernels, and its installation."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

from lad.mmcv_ops.missing import needs_compiled_mmcv

NAME = "mmcv._ext"


class TorchExtension(ModuleType):
    """Implementation of ``mmcv._ext`` by torch and torchvision kernels.

    At import time mmcv only checks that attributes exist, so every public name exists; an operator without a kernel
    raises an error that names it when it is called.
    """

    def __init__(self, kernels: dict[str, Callable]) -> None:
        super().__init__(NAME, "mmcv's operators on torchvision and torch kernels")
        # pkgutil and importlib read the spec of a loaded module.
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
    """Whether ``mmcv._ext`` is a :class:`TorchExtension`."""
    return isinstance(sys.modules.get(NAME), TorchExtension)


def install() -> bool:
    """Provide ``mmcv._ext`` unless a compiled one exists; returns :func:`is_installed`."""
    import mmcv

    if NAME in sys.modules or importlib.util.find_spec(NAME) is not None:
        return is_installed()
    from lad.mmcv_ops.kernels import KERNELS

    extension = TorchExtension(KERNELS)
    sys.modules[NAME] = extension
    mmcv._ext = extension
    return True
