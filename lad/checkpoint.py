"""Reading checkpoint files without running code from them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

from lad.errors import CheckpointError

import numpy as np
import torch
import torch.hub
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer


def _history_buffer_method(owner: object, name: str) -> Callable:
    """Stands in for ``getattr`` in checkpoints.

    MMEngine pickles the message hub's HistoryBuffers together with their statistics methods, and pickle
    writes a method as ``getattr(HistoryBuffer, name)``. Nothing else may be looked up this way.
    """
    if owner is HistoryBuffer and name in ("min", "max", "current", "mean"):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f"getattr({owner!r}, {name!r}) is not allowed in a checkpoint")


def allowed_globals() -> dict[str, Any]:
    """What MMEngine's checkpoints name besides tensors, by the full names that occur in files.

    numpy 2 moved ``numpy.core`` to ``numpy._core``; files written under either name are read.
    """
    from numpy.core.multiarray import _reconstruct, scalar

    # One instance each of the plain kinds: their classes (numpy.dtypes.Float64DType, ...) are named in files.
    kinds = [np.dtype(code) for code in ("?", *"bhilqBHILQefdgFDSUO")]
    globals_ = {
        "builtins.getattr": _history_buffer_method,
        "__builtin__.getattr": _history_buffer_method,
        "mmengine.logging.history_buffer.HistoryBuffer": HistoryBuffer,
        "mmengine.config.config.ConfigDict": ConfigDict,
        "numpy.dtype": np.dtype,
        "numpy.ndarray": np.ndarray,
    }
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        globals_[f"{module}._reconstruct"] = _reconstruct
        globals_[f"{module}.scalar"] = scalar
    for kind in kinds:
        globals_[f"numpy.dtypes.{type(kind).__name__}"] = type(kind)
    return globals_


def _restricted_pickle() -> ModuleType:
    """A pickle module for torch < 2.4, whose ``weights_only`` reader has no allow-list of ours."""
    from torch._weights_only_unpickler import _get_allowed_globals

    allowed = {**_get_allowed_globals(), **allowed_globals()}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            try:
                return allowed[f"{module}.{name}"]
            except KeyError:
                raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name}") from None

    restricted = ModuleType("restricted_pickle")
    restricted.Unpickler = Unpickler
    restricted.load = lambda file, **kwargs: Unpickler(file, **kwargs).load()
    return restricted


def load_safely(file: Any, map_location: Any = None, **kwargs: Any) -> Any:
    """``torch.load`` that accepts tensors, plain data and MMEngine's own records, and nothing else.

    Args:
        file: A path or a binary file object.
        map_location: As for ``torch.load``.
        kwargs: Further arguments of ``torch.load``; ``weights_only`` and ``pickle_module`` are set here.

    Raises:
        CheckpointError: the file would run code, or is not a checkpoint.
    """
    kwargs.pop("weights_only", None)
    kwargs.pop("pickle_module", None)
    name = file if isinstance(file, (str, Path)) else getattr(file, "name", "the checkpoint")
    try:
        if hasattr(torch.serialization, "add_safe_globals"):
            torch.serialization.add_safe_globals(_as_safe_globals())
            return torch.load(file, map_location=map_location, weights_only=True, **kwargs)
        return torch.load(
            file, map_location=map_location, weights_only=False, pickle_module=_restricted_pickle(), **kwargs
        )
    except pickle.UnpicklingError as error:
        raise CheckpointError(_explain(name, str(error))) from error
    except (RuntimeError, EOFError, ValueError) as error:
        first = str(error).strip().splitlines()
        raise CheckpointError(
            f"{name} cannot be read as a checkpoint ({first[0][:160] if first else type(error).__name__}): "
            "it is truncated, corrupt or of another kind; write or download it again."
        ) from error


def load_url_safely(
    url: str,
    model_dir: str | None = None,
    map_location: Any = None,
    progress: bool = True,
    check_hash: bool = False,
    file_name: str | None = None,
    **kwargs: Any,
) -> Any:
    """``torch.hub.load_state_dict_from_url``, whose files are read by :func:`load_safely`.

    Downloads once into torch's checkpoint cache; the arguments are those of the function it replaces.
    """
    folder = Path(model_dir or os.path.join(torch.hub.get_dir(), "checkpoints"))
    path = folder / (file_name or os.path.basename(urlparse(url).path))
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        prefix = torch.hub.HASH_REGEX.search(path.name) if check_hash else None
        try:
            torch.hub.download_url_to_file(url, str(path), prefix and prefix.group(1), progress=progress)
        except OSError as error:
            raise CheckpointError(
                f"cannot download {url} ({error}): check the address and the network."
            ) from error
    return load_safely(path, map_location=map_location)


def _as_safe_globals() -> list[Any]:
    """``allowed_globals`` as ``add_safe_globals`` takes it, for torch 2.4 on.

    Pairs of an object and its name in files came with torch 2.6. Before, an object is known by its own
    module and name only, so the stand-in for ``getattr`` poses as the builtin and numpy's old names are lost.
    """
    allowed = allowed_globals()
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 6):
        return [(value, name) for name, value in allowed.items()]
    _history_buffer_method.__module__, _history_buffer_method.__qualname__ = "builtins", "getattr"
    _history_buffer_method.__name__ = "getattr"
    return list(dict.fromkeys(allowed.values()))


def _explain(name: object, message: str) -> str:
    for line in message.splitlines():
        if "GLOBAL" in line:
            culprit = line.split("GLOBAL", 1)[1].split()[0].rstrip(".,")
            return (
                f"{name} is refused: it names {culprit}, which is not tensor data and could run code; "
                "keep only its state_dict: torch.save(dict(state_dict=...)) from where you trust the file."
            )
    # torch surrounds the reason with several lines of advice.
    reason = message.split("WeightsUnpickler error:")[-1].strip().splitlines() or ["not a checkpoint"]
    return f"{name} is refused: {reason[0][:200]}"
