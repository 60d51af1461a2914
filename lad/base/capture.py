"""Scoped forward hooks that record the outputs of named modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from typing import Any

from lad.errors import ConfigError, nearest

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

#: Suffix of a module's name: its input is meant, not its output.
INPUT = ":input"


class Outputs:
    """The outputs of captured modules by name, in the order of their calls.

    They are the modules' own tensors. Reading one that was overwritten since, as an in-place ReLU overwrites the output
    of the layer before it, is an error. Tensors of ``torch.inference_mode`` do not count what is written to them, and
    are not checked.
    """

    #: Whether they are those of a frozen network, in eval mode: what is computed of them once more is the same.
    frozen: bool = True

    def __init__(self) -> None:
        self._calls: dict[str, list[Any]] = {}
        self._versions: dict[str, list[tuple[Tensor, int]]] = {}

    def __getitem__(self, name: str) -> Any:
        """The output of a module that was called once.

        Raises:
            KeyError: it was not called, or several times (a head shared by the levels: see :meth:`calls`).
        """
        calls = self.calls(name)
        if len(calls) != 1:
            raise KeyError(f"module {name!r} was called {len(calls)} times, not once; use calls({name!r})")
        return calls[0]

    def __contains__(self, name: str) -> bool:
        """Whether there is an output of a module."""
        return bool(self.calls(name))

    def calls(self, name: str) -> list[Any]:
        """Every output of a module, one an element for each call.

        Raises:
            ConfigError: its output was overwritten since.
        """
        if any(tensor._version != version for tensor, version in self._versions.get(name, ())):
            raise ConfigError(
                f"the output of {name!r} was overwritten in place by what follows (a ReLU, or a sum with a shortcut): "
                "name the input of the next module instead, 'NEXT:input'."
            )
        return self._calls.get(name, [])

    def add(self, name: str, output: Any) -> None:
        """Append the output of one call."""
        self._calls.setdefault(name, []).append(output)
        if torch.compiler.is_compiling():
            return
        self._versions.setdefault(name, []).extend(
            (leaf, leaf._version)
            for leaf in tree_leaves(output)
            if isinstance(leaf, Tensor) and not leaf.is_inference()
        )


@cache
def split_level(name: str) -> tuple[str, int | None]:
    """Split ``'neck[2]'`` into the module's name and the number of its output; None stands for all outputs."""
    found = re.fullmatch(r"(.*)\[(-?\d+)\]", name)
    return (found[1], int(found[2])) if found else (name, None)


@cache
def root_of(name: str) -> str:
    """The part of a detector that a name begins with: ``'neck'`` of ``'neck:input[1]'`` and ``'neck.fpn_convs.0'``."""
    return split_level(name)[0].removesuffix(INPUT).split(".")[0]


def levels_of(calls: Any, level: int | None = None) -> list[Tensor]:
    """List the tensors of a module's output in order: levels of a pyramid, or calls of a head that levels share.

    Args:
        calls: Any nesting of lists, tuples and dicts of tensors; ``outputs.calls(name)``, for instance.
        level: Number of one tensor; None for all.

    Raises:
        ConfigError: there is no such level.
    """
    tensors = [leaf for leaf in tree_leaves(calls) if isinstance(leaf, Tensor)]
    if level is None:
        return tensors
    if not -len(tensors) <= level < len(tensors):
        raise ConfigError(f"there is no level [{level}]: the module returns {len(tensors)} feature maps.")
    return [tensors[level]]


def find_module(model: nn.Module, name: str) -> nn.Module:
    """Find the submodule of a dotted name, which may end in ``:input``.

    Raises:
        ConfigError: there is none; the message names the nearest ones.
    """
    name = name.removesuffix(INPUT)
    try:
        if name:
            return model.get_submodule(name)
    except AttributeError:
        pass
    # Only now: a list of all modules takes long.
    modules = [other for other, _ in model.named_modules() if other]
    raise ConfigError(f"{type(model).__name__} has no module {name!r}{nearest(name, modules)}.")


class Capture:
    """Scoped forward hooks on named modules, which are found once and can record any number of forward passes.

    With ``:input`` behind its name a module's input is recorded: ``'backbone.layer4.1.relu:input'`` is what the ReLU
    is about to cut off.

    Args:
        model: The model.
        names: Names of its modules.

    Raises:
        ConfigError: a name is not a module of the model.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        self._modules = [(name, find_module(model, name), name.endswith(INPUT)) for name in self.names]

    @contextmanager
    def record(self) -> Iterator[Outputs]:
        """Record the outputs while the block runs; the hooks are removed on leaving it, after an exception too."""
        outputs = Outputs()
        with ExitStack() as hooks:
            for name, module, is_input in self._modules:
                if is_input:
                    # A copy: a module that works in place (ReLU) overwrites its input.
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


def capture(model: nn.Module, names: Iterable[str]) -> AbstractContextManager[Outputs]:
    """Record what named modules of a model return while a block runs; see :class:`Capture`."""
    return Capture(model, names).record()
