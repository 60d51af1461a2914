"""Compare a state dict with a model without loading it."""

from __future__ import annotations

import copy
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lad.compat.messages import size_mismatch
from lad.errors import listed

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

#: Buffers that may differ without changing what the model computes: counters of batch norm, and the positions 0, 1,
#: ... of language models, which transformers has saved or not, depending on its version.
_CONSTANT = re.compile(r"(num_batches_tracked|position_ids)$")


@dataclass(frozen=True)
class Fit:
    """Agreement of a state dict with a model, key by key.

    Attributes:
        loaded: Number of keys of the model that the state dict gives a value.
        mismatched: Keys of another shape: the state dict's and the model's.
        missing: Keys that the model has and the state dict has not.
        unexpected: Keys that the state dict has and the model has not.
        errors: Whatever else a module refuses.
    """

    loaded: int
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    missing: list[str]
    unexpected: list[str]
    errors: list[str]

    @property
    def is_whole(self) -> bool:
        """Whether every key agrees."""
        return not (self.mismatched or self.missing or self.unexpected or self.errors)

    def problem(self) -> str:
        """What does not agree, with counts and the first names; empty if all does."""
        if not (self.loaded or self.mismatched):
            return (
                "another architecture, or its keys have a prefix: no key fits "
                f"(it has {listed(self.unexpected, 2)}; the model {listed(self.missing, 2)})"
            )
        if self.mismatched:
            shapes = [f"{key} {old} for {new}" for key, (old, new) in self.mismatched.items()]
            return f"another architecture or number of classes: {listed(shapes, 2)}"
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} keys are missing ({listed(self.missing, 2)})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} are unknown ({listed(self.unexpected, 2)})")
        parts += [" ".join(error.split())[:160] for error in self.errors[:1]]
        return f"another architecture: {' and '.join(parts)}" if parts else ""

    def not_loaded(self) -> str:
        """Counts and first names of all that a partial loading leaves out, for a warning; empty if there is nothing."""
        parts = []
        if self.mismatched:
            shapes = [f"{key} {old} for {new}" for key, (old, new) in self.mismatched.items()]
            parts.append(f"{len(shapes)} of another shape ({listed(shapes, 3)})")
        if self.missing:
            parts.append(f"{len(self.missing)} that the checkpoint lacks ({listed(self.missing, 3)})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} that the model lacks ({listed(self.unexpected, 3)})")
        parts += [" ".join(error.split())[:160] for error in self.errors]
        return "; ".join(parts)

    def renamed(self, name: Callable[[str], str]) -> Fit:
        """The same with other names of the keys."""
        return Fit(
            self.loaded,
            {name(key): shapes for key, shapes in self.mismatched.items()},
            [name(key) for key in self.missing],
            [name(key) for key in self.unexpected],
            self.errors,
        )


def compare_state(model: nn.Module, state: Mapping[str, Tensor]) -> Fit:
    """Compare a state dict with a model; neither is changed.

    The model loads it into tensors without data: what its modules do to the keys of older versions counts.

    Args:
        model: Any module.
        state: Its keys as the model itself would save them, with the attribute ``_metadata`` where it has one.
    """
    copied: OrderedDict[str, Tensor] = OrderedDict(state)
    if hasattr(state, "_metadata"):
        copied._metadata = copy.copy(state._metadata)  # type: ignore[attr-defined]  # torch's own convention
    missing: list[str] = []
    unexpected: list[str] = []
    errors: list[str] = []

    def record(_: nn.Module, keys: Any) -> None:
        missing[:], unexpected[:] = keys.missing_keys, keys.unexpected_keys

    # Called before torch raises for other shapes, which tells of nothing else.
    handle = model.register_load_state_dict_post_hook(record)
    try:
        with _without_data(model), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*copying from a non-meta parameter", UserWarning)
            model.load_state_dict(copied, strict=False)
    except RuntimeError as error:
        errors = str(error).splitlines()[1:]
    finally:
        handle.remove()
    mismatched = dict(filter(None, map(size_mismatch, errors)))
    return Fit(
        max(0, len(state) - len(unexpected) - len(mismatched)),
        mismatched,
        [key for key in missing if not _CONSTANT.search(key)],
        [key for key in unexpected if not _CONSTANT.search(key)],
        [error for error in errors if size_mismatch(error) is None],
    )


@contextmanager
def _without_data(model: nn.Module) -> Iterator[None]:
    """Temporarily replace the parameters and buffers of a model by tensors that have a shape alone."""
    replaced: list[tuple[dict[str, Any], dict[str, Any]]] = []
    try:
        for module in model.modules():
            stores: list[dict[str, Any]] = [module._parameters, module._buffers]
            for tensors in stores:
                replaced.append((tensors, dict(tensors)))
                for name, value in tensors.items():
                    if value is not None and not is_lazy(value):
                        empty = torch.empty_like(value, device="meta", requires_grad=False)
                        tensors[name] = (
                            nn.Parameter(empty, False) if isinstance(value, nn.Parameter) else empty
                        )
        yield
    finally:
        for tensors, before in replaced:
            tensors.update(before)
