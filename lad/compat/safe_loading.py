"""Safe reading of checkpoint files: no code in them is run."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

from lad.compat.messages import TORCH_BROKEN_FILE, TORCH_WRONG_HASH, refused_global, unpickling_reason
from lad.errors import CheckpointError

import numpy as np
import torch
import torch.hub
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

# -- Restricted stand-ins for the globals in checkpoint files ----------------------------------------------------------
#
# numpy's own functions trust their arguments: an array of "objects" made from a file's bytes is a list of pointers
# that the file chose. These take plain numbers and text, and check the sizes.


class PlainDtype:
    """Stand-in for ``numpy.dtype`` in files: numbers, booleans and text only."""

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
    """Stand-in for ``numpy.ndarray`` in files; pickled again as a plain ``numpy.ndarray``."""

    def __new__(cls) -> PlainArray:
        """Create an empty array; ``__setstate__`` fills it."""
        return super().__new__(cls, (0,), np.uint8)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        if not (isinstance(dtype, PlainDtype) and isinstance(content, bytes)):
            raise pickle.UnpicklingError("an array's content is not plain bytes of a plain dtype")
        if len(content) != int(np.prod(shape, dtype=np.int64)) * dtype.dtype.itemsize:
            raise pickle.UnpicklingError("an array's content does not fill its shape")
        state = (1, shape, dtype.dtype, bool(fortran), content)
        super().__setstate__(state)  # type: ignore[arg-type]  # the stub wants numpy's bool, files hold Python's

    def __reduce__(self) -> str | tuple:
        return self.view(np.ndarray).__reduce__()


def plain_array(*args: object) -> PlainArray:
    """Stand-in for numpy's ``_reconstruct``, which creates the empty array that ``__setstate__`` fills."""
    return PlainArray()


def plain_scalar(dtype: PlainDtype, content: bytes) -> np.generic:
    """Stand-in for numpy's ``scalar``."""
    if not (isinstance(dtype, PlainDtype) and isinstance(content, bytes)):
        raise pickle.UnpicklingError("a numpy scalar is not plain bytes of a plain dtype")
    return np.frombuffer(content, dtype=dtype.dtype, count=1)[0]


def plain_bytes(text: str, encoding: str = "latin1") -> bytes:
    """Stand-in for ``_codecs.encode``, with which pickle's protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoded as {encoding!r} is not allowed in a checkpoint")
    return text.encode("latin1")


def plain_attribute(owner: object, name: str) -> Callable:
    """Stand-in for ``getattr``, with which pickle names methods.

    MMEngine saves the statistics methods of its HistoryBuffers and the annealing function of its one-cycle schedule.
    Any other attribute is refused.
    """
    if owner is HistoryBuffer and name in ("min", "max", "current", "mean"):
        return getattr(HistoryBuffer, name)
    if owner is OneCycleParamScheduler and name in ("_annealing_cos", "_annealing_linear"):
        return getattr(OneCycleParamScheduler, name)
    raise pickle.UnpicklingError(f"getattr({owner!r}, {name!r}) is not allowed in a checkpoint")


def allowed_globals() -> dict[str, Any]:
    """Objects that checkpoints may contain besides tensors, by the full names that occur in files.

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


_SAFE_GLOBALS = threading.Lock()


@contextmanager
def only_stand_ins() -> Iterator[None]:
    """Temporarily let torch's reader use :func:`allowed_globals`, instead of others of the same names.

    Other packages may have allowed some of these objects themselves (OneDL's MMEngine allows ``getattr``); torch keeps
    all in one set and takes one of them.
    """
    allowed = allowed_globals()
    with _SAFE_GLOBALS:
        before = torch.serialization.get_safe_globals()
        others = [one for one in before if _name_in_files(one) not in allowed]
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([*others, *((value, key) for key, value in allowed.items())])
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


def _name_in_files(allowed: Any) -> str:
    """The full name of an object that ``add_safe_globals`` was given, alone or with its name."""
    return allowed[1] if isinstance(allowed, tuple) else f"{allowed.__module__}.{allowed.__qualname__}"


def restricted_pickle() -> ModuleType:
    """Create a pickle module with the same allow-list, for torch before 2.6.

    Its own ``weights_only`` reader cannot be extended before 2.4 and can be bypassed before 2.6
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
    vars(restricted).update(Unpickler=Unpickler, load=lambda file, **kwargs: Unpickler(file, **kwargs).load())
    return restricted


# -- Loading ---------------------------------------------------------------------------------------------------------


def load_safely(file: Any, map_location: Any = None, **kwargs: Any) -> Any:
    """Load a file as ``torch.load`` does, accepting tensors, plain data and MMEngine's own records only.

    The checksums of local files are compared first, which torch does not do.

    Args:
        file: A path or a binary file object.
        map_location: As for ``torch.load``.
        kwargs: Further arguments of ``torch.load``; ``weights_only`` and ``pickle_module`` are set here.

    Raises:
        CheckpointError: the file would run code, is damaged, or is not a checkpoint.
        FileNotFoundError: it does not exist.
    """
    kwargs.pop("weights_only", None)
    kwargs.pop("pickle_module", None)
    name = file if isinstance(file, (str, Path)) else getattr(file, "name", "the checkpoint")
    try:
        if isinstance(file, (str, Path)):
            _check_checksums(Path(file))
        return _restricted_load(file, map_location, kwargs)
    except (CheckpointError, FileNotFoundError):
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(_explain(name, str(error))) from error
    except (IsADirectoryError, PermissionError) as error:
        raise CheckpointError(f"{name} cannot be read: {error.strerror}.") from error
    except (RuntimeError, AssertionError) as error:
        if not TORCH_BROKEN_FILE.search(str(error)) and _is_readable(file, kwargs):
            raise  # the device's error, not the file's
        raise CheckpointError(_unreadable(name, error)) from error
    # The bytes of a damaged file decide which line of torch or pickle fails, and with what.
    except Exception as error:
        raise CheckpointError(_unreadable(name, error)) from error


def _restricted_load(file: Any, map_location: Any, kwargs: dict[str, Any]) -> Any:
    # torch's own reader is safe since 2.6 (CVE-2025-32434), which nothing but its version tells.
    if _torch_version() < (2, 6):
        kwargs = dict(kwargs, weights_only=False, pickle_module=restricted_pickle())
        return torch.load(file, map_location=map_location, **kwargs)
    with only_stand_ins():
        return torch.load(file, map_location=map_location, weights_only=True, **kwargs)


def _check_checksums(path: Path) -> None:
    """Compare the checksums in an archive of ``torch.save``; other files have none.

    Raises:
        CheckpointError: one is wrong, or the archive cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    # zipfile trusts the file, too: it may ask for a compression or a version that there is not.
    except Exception as error:
        raise CheckpointError(_unreadable(path, error)) from error
    if damaged is not None:
        raise CheckpointError(
            f"{path} is damaged: the checksum of {damaged} is wrong; write or download it again."
        )


def _is_readable(file: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a file that could not be loaded to a device can be loaded to none."""
    try:
        if hasattr(file, "seek"):
            file.seek(0)
        _restricted_load(file, "meta", kwargs)
    except Exception:
        return False
    return True


def _torch_version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def _unreadable(name: object, error: Exception) -> str:
    first = str(error).strip().splitlines()
    reason = type(error).__name__ + (f": {first[0][:160]}" if first else "")
    return (
        f"{name} cannot be read as a checkpoint ({reason}): "
        "it is truncated, corrupt or of another kind; write or download it again."
    )


def _explain(name: object, message: str) -> str:
    culprit = refused_global(message)
    if culprit is not None:
        return (
            f"{name} is refused: it names {culprit}, which is not tensor data and could run code; "
            "keep only its state_dict: torch.save(dict(state_dict=...)) from where you trust the file."
        )
    reason = unpickling_reason(message) or "not a checkpoint"
    return f"{name} is refused: {reason[:200]}"


def load_url_safely(
    url: str,
    model_dir: str | None = None,
    map_location: Any = None,
    progress: bool = True,
    check_hash: bool = False,
    file_name: str | None = None,
    **kwargs: Any,
) -> Any:
    """Load a checkpoint from a URL, as ``torch.hub.load_state_dict_from_url`` does, with :func:`load_safely`.

    Downloads once into torch's checkpoint cache; the arguments are those of the function it replaces. A name that
    carries a hash, as OpenMMLab's do (``..._20200821-936edec3.pth``: the first 8 digits of the file's SHA-256), is
    always compared with the downloaded file; ``check_hash`` is ignored. Files whose name carries no hash are stored
    with a hash of their address: checkpoints of different runs have the same names.

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
            if TORCH_WRONG_HASH not in str(error):
                raise
            raise CheckpointError(
                f"{url} is not the file that its name says: its SHA-256 does not begin with {digest}; try again, or "
                "download it from where you trust it and give its path."
            ) from error
    return load_safely(path, map_location=map_location)


def _digest_in(name: str) -> str | None:
    """Beginning of the SHA-256 in a file's name; None if there is none (dates are not hashes)."""
    hashed = re.search(r"-([a-f0-9]{8,64})\.", name)
    if hashed is None or re.fullmatch(r"20\d\d[01]\d[0-3]\d", hashed[1]):
        return None
    return hashed[1]
