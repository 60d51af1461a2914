"""Reading checkpoint files without running code from them."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import zipfile
from collections import Counter
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
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

# -- What stands in for what files name ------------------------------------------------------------------------------
#
# numpy's own functions trust their arguments: an array of "objects" made from a file's bytes is a list of pointers
# that the file chose. These take plain numbers and text, and check the sizes.


class PlainDtype:
    """Stands in for ``numpy.dtype`` in files: numbers, booleans and text only."""

    def __init__(self, code: str = "u1", align: bool = False, copy: bool = False) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"[<>|=]?[biufcUS]\d{1,4}", code)):
            raise pickle.UnpicklingError(f"an array of {code!r} is not allowed in a checkpoint")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("a dtype's state is not what numpy writes")
        self.dtype = self.dtype.newbyteorder(order)


class PlainArray(np.ndarray):
    """Stands in for ``numpy.ndarray`` in files; pickled again it is numpy's own."""

    def __new__(cls) -> PlainArray:
        """An empty array, whatever a file asks for; its state fills it."""
        return super().__new__(cls, (0,), np.uint8)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        if not (isinstance(dtype, PlainDtype) and isinstance(content, bytes)):
            raise pickle.UnpicklingError("an array's content is not plain bytes of a plain dtype")
        if len(content) != int(np.prod(shape, dtype=np.int64)) * dtype.dtype.itemsize:
            raise pickle.UnpicklingError("an array's content does not fill its shape")
        super().__setstate__((1, shape, dtype.dtype, bool(fortran), content))

    def __reduce__(self) -> tuple:
        return self.view(np.ndarray).__reduce__()


def plain_array(*args: object) -> PlainArray:
    """Stands in for numpy's ``_reconstruct``, which makes the empty array that its state then fills."""
    return PlainArray()


def plain_scalar(dtype: PlainDtype, content: bytes) -> np.generic:
    """Stands in for numpy's ``scalar``."""
    if not (isinstance(dtype, PlainDtype) and isinstance(content, bytes)):
        raise pickle.UnpicklingError("a numpy scalar is not plain bytes of a plain dtype")
    return np.frombuffer(content, dtype=dtype.dtype, count=1)[0]


def plain_bytes(text: str, encoding: str = "latin1") -> bytes:
    """Stands in for ``_codecs.encode``, by which pickle's protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoded as {encoding!r} is not allowed in a checkpoint")
    return text.encode("latin1")


def plain_attribute(owner: object, name: str) -> Callable:
    """Stands in for ``getattr``, by which pickle names methods.

    MMEngine saves the statistics methods of its HistoryBuffers and the annealing function of its one-cycle schedule.
    Nothing else may be looked up this way.
    """
    if owner is HistoryBuffer and name in ("min", "max", "current", "mean"):
        return getattr(HistoryBuffer, name)
    if owner is OneCycleParamScheduler and name in ("_annealing_cos", "_annealing_linear"):
        return getattr(OneCycleParamScheduler, name)
    raise pickle.UnpicklingError(f"getattr({owner!r}, {name!r}) is not allowed in a checkpoint")


def allowed_globals() -> dict[str, Any]:
    """What MMEngine's checkpoints name besides tensors, by the full names that occur in files.

    numpy 2 moved ``numpy.core`` to ``numpy._core``; files written under either name are read.
    """
    allowed = {
        "_codecs.encode": plain_bytes,
        "collections.Counter": Counter,
        "builtins.getattr": plain_attribute,
        "__builtin__.getattr": plain_attribute,
        "mmengine.logging.history_buffer.HistoryBuffer": HistoryBuffer,
        "mmengine.config.config.ConfigDict": ConfigDict,
        "mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler": OneCycleParamScheduler,
        "numpy.dtype": PlainDtype,
        "numpy.ndarray": PlainArray,
    }
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed[f"{module}._reconstruct"] = plain_array
        allowed[f"{module}.scalar"] = plain_scalar
    return allowed


def restricted_pickle() -> ModuleType:
    """A pickle module for torch before 2.6, with the same allow-list.

    Its own ``weights_only`` reader takes no names of ours before 2.4 and could be tricked before 2.6
    (CVE-2025-32434).
    """
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


# -- Loading ---------------------------------------------------------------------------------------------------------


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
    if _torch_version() >= (2, 6):
        torch.serialization.add_safe_globals([(value, key) for key, value in allowed_globals().items()])
        kwargs["weights_only"] = True
    else:
        kwargs.update(weights_only=False, pickle_module=restricted_pickle())
    try:
        return torch.load(file, map_location=map_location, **kwargs)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_explain(name, str(error))) from error
    except (EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(_unreadable(name, error)) from error
    except RuntimeError as error:
        # torch's words for a file that is not a whole archive; a device error is another thing.
        if not re.search(r"PytorchStreamReader|zip archive|unexpected EOF|corrupted", str(error)):
            raise
        raise CheckpointError(_unreadable(name, error)) from error


def _torch_version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def _unreadable(name: object, error: Exception) -> str:
    first = str(error).strip().splitlines()
    return (
        f"{name} cannot be read as a checkpoint ({first[0][:160] if first else type(error).__name__}): "
        "it is truncated, corrupt or of another kind; write or download it again."
    )


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

    Downloads once into torch's checkpoint cache; the arguments are those of the function it replaces. A name that
    carries a hash, as OpenMMLab's do (``..._20200821-936edec3.pth``: the first 8 digits of the file's SHA-256), is held
    against what was downloaded, whatever ``check_hash`` says. Files whose name carries no hash are kept under one of
    their address: every run calls its last checkpoint alike.

    Raises:
        CheckpointError: another protocol than http(s); the download fails, or is another file than its name says.
    """
    address = urlparse(url)
    if address.scheme not in ("http", "https"):
        raise CheckpointError(
            f"cannot download {url}: only http and https are allowed; download it, and give its path."
        )
    folder = Path(model_dir or os.path.join(torch.hub.get_dir(), "checkpoints"))
    # A name alone: no part of an address or an argument may lead out of the folder.
    name = os.path.basename((file_name or address.path).replace("\\", "/"))
    digest = _digest_in(name)
    if digest is None and file_name is None:
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}_{name}"
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), digest, progress=progress)
        except OSError as error:
            raise CheckpointError(
                f"cannot download {url} ({error}): check the address and the network."
            ) from error
        except RuntimeError as error:
            if "invalid hash value" not in str(error):
                raise
            raise CheckpointError(
                f"{url} is not the file that its name says: its SHA-256 does not begin with {digest}; try again, or "
                "download it from where you trust it and give its path."
            ) from error
    return load_safely(path, map_location=map_location)


def _digest_in(name: str) -> str | None:
    """The beginning of a SHA-256 that a file's name carries; None without, and for dates."""
    hashed = re.search(r"-([a-f0-9]{8,64})\.", name)
    if hashed is None or re.fullmatch(r"20\d\d[01]\d[0-3]\d", hashed[1]):
        return None
    return hashed[1]
