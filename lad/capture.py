"""Scoped forward hooks: what named modules put out while a block runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lad.errors import ConfigError, nearest

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

#: Behind a module's name: what it is given is meant, not what it puts out.
INPUT = ":input"


class Outputs:
    """The outputs of captured modules by name, in the order of their calls."""

    def __init__(self) -> None:
        self._calls: dict[str, list[Any]] = {}

    def __getitem__(self, name: str) -> Any:
        """The output of a module that was called once.

        Raises:
            KeyError: it was not called, or several times (a head shared by the levels: see :meth:`calls`).
        """
        calls = self.calls(name)
        if len(calls) != 1:
            raise KeyError(f"module {name!r} was called {len(calls)} times, not once; use calls({name!r})")
        return calls[0]

    def calls(self, name: str) -> list[Any]:
        """Every output of a module, one an element for each call."""
        return self._calls.get(name, [])

    def add(self, name: str, output: Any) -> None:
        """Append the output of one call."""
        self._calls.setdefault(name, []).append(output)


def split_level(name: str) -> tuple[str, int | None]:
    """Take ``'neck[2]'`` apart: the module's name, and which of its outputs is meant (None: all of them)."""
    found = re.fullmatch(r"(.*)\[(-?\d+)\]", name)
    return (found[1], int(found[2])) if found else (name, None)


def levels_of(calls: Any, level: int | None = None) -> list[Tensor]:
    """The tensors in what a module put out, in order: levels of a pyramid, or the calls of a head that levels share.

    Args:
        calls: Any nesting of lists, tuples and dicts of tensors; ``outputs.calls(name)``, for instance.
        level: The one that is meant; None for all.

    Raises:
        ConfigError: there is no such level.
    """
    tensors = [leaf for leaf in tree_leaves(calls) if isinstance(leaf, Tensor)]
    if level is None:
        return tensors
    if not -len(tensors) <= level < len(tensors):
        raise ConfigError(f"there is no level [{level}]: the module puts out {len(tensors)} feature maps.")
    return [tensors[level]]


def find_module(model: nn.Module, name: str) -> nn.Module:
    """The submodule of a dotted name, which may end in ``:input``.

    Raises:
        ConfigError: there is none; the message names the nearest ones.
    """
    name = name.removesuffix(INPUT)
    modules = dict(model.named_modules())
    if not name or name not in modules:
        raise ConfigError(
            f"{type(model).__name__} has no module {name!r}{nearest(name, filter(None, modules))}."
        )
    return modules[name]


@contextmanager
def capture(model: nn.Module, names: Iterable[str]) -> Iterator[Outputs]:
    """Collect what the named modules of ``model`` return while the block runs.

    With ``:input`` behind its name it is what a module is given: ``'backbone.layer4.1.relu:input'`` is what the ReLU
    is to cut off.

    The hooks are removed on leaving the block, after an exception too.

    Raises:
        ConfigError: a name is not a module of the model.
    """
    outputs = Outputs()
    with ExitStack() as hooks:
        for name in dict.fromkeys(names):
            module = find_module(model, name)
            if name.endswith(INPUT):
                # A copy: a module that works in place (ReLU) overwrites what it is given.
                handle = module.register_forward_pre_hook(
                    lambda module, args, name=name: outputs.add(
                        name, tree_map_only(Tensor, torch.clone, args)
                    )
                )
            else:
                handle = module.register_forward_hook(
                    lambda module, args, output, name=name: outputs.add(name, output)
                )
            hooks.callback(handle.remove)
        yield outputs
