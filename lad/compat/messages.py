"""Error and warning texts of other packages that the project matches.

Every text that decides what the project does stands here, beside the package and the version that it was read from.
``tests/compat/test_messages.py`` provokes each error in the installed packages: an update that rewords one fails there.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# -- torch 2.14 --------------------------------------------------------------------------------------------------------

#: ``RuntimeError`` of ``torch.load`` for a file that is not a complete archive, in the zip and in the legacy format.
#: Errors of devices are RuntimeErrors of ``torch.load`` too.
TORCH_BROKEN_FILE = re.compile(r"PytorchStreamReader|zip archive|unexpected EOF|corrupted")

#: ``RuntimeError`` of convolutions, linear layers, arithmetic and normalisations for inputs of the wrong size.
TORCH_SHAPE_MISMATCH = re.compile(
    r"to have \d+ channels|expected input|size of tensor|cannot be multiplied|normalized_shape|running_mean"
)

#: ``ValueError`` of batch and group norms in training, for a single value a channel or group.
TORCH_ONE_VALUE = "Expected more than 1 value per channel when training"

#: ``RuntimeError`` of ``torch.hub.download_url_to_file``.
TORCH_WRONG_HASH = "invalid hash value"

#: ``TypeError`` of a text or list times a tensor, which names no type.
TORCH_TEXT_TIMES_TENSOR = "only integer tensors of a single element can be converted to an index"

_EXPECTED_CHANNELS = re.compile(r"to have (\d+) channels")


def refused_global(message: str) -> str | None:
    """Full name of the global that ``torch.load(weights_only=True)`` refused; None if that was not the reason.

    torch 2.14: ``Unsupported global: GLOBAL posix.system was not an allowed global by default. ...``.
    """
    for line in message.splitlines():
        if "GLOBAL" in line:
            return line.split("GLOBAL", 1)[1].split()[0].rstrip(".,")
    return None


def unpickling_reason(message: str) -> str:
    """First line of the reason in an ``UnpicklingError`` of ``torch.load``; empty without one.

    torch 2.14 writes ``WeightsUnpickler error: REASON`` between several lines of advice.
    """
    lines = message.split("WeightsUnpickler error:")[-1].strip().splitlines()
    return lines[0] if lines else ""


def expected_channels(message: str) -> int | None:
    """Number of input channels that a convolution expected; None for other errors.

    torch 2.14: ``expected input[2, 3, 8, 8] to have 4 channels, but got 3 channels instead``.
    """
    found = _EXPECTED_CHANNELS.search(message)
    return int(found[1]) if found else None


_SIZE_MISMATCH = re.compile(
    r"size mismatch for (?P<key>\S+): copying a param with shape torch\.Size\(\[(?P<saved>[\d, ]*)\]\) from "
    r"checkpoint, the shape in current model is torch\.Size\(\[(?P<own>[\d, ]*)\]\)"
)


def size_mismatch(message: str) -> tuple[str, tuple[tuple[int, ...], tuple[int, ...]]] | None:
    """Key and both shapes (the file's, the model's) of a line of ``load_state_dict``'s error; None for other lines.

    torch 2.14: ``size mismatch for KEY: copying a param with shape torch.Size([2, 2]) from checkpoint, the shape in
    current model is torch.Size([3, 2]).``.
    """
    found = _SIZE_MISMATCH.search(message)
    if found is None:
        return None
    saved, own = (
        tuple(int(size) for size in found[name].split(",") if size.strip()) for name in ("saved", "own")
    )
    return found["key"], (saved, own)


def without_worker_traceback(message: str) -> str:
    """Message of an error that a worker of ``torch.utils.data.DataLoader`` raised; others are returned unchanged.

    torch 2.14: ``Caught E in DataLoader worker process 0.``, ``Original Traceback (most recent call last):``, the
    traceback, and a last line ``module.E: MESSAGE``.
    """
    if "Traceback" not in message:
        return message
    return message.strip().splitlines()[-1].split("Error: ", 1)[-1]


_WORKER_LINE = re.compile(r'^  File "[^"]+", line \d+, in .+\n    (?P<code>.+)$', re.MULTILINE)


def worker_expressions(message: str) -> list[str]:
    """Lines of source in a worker's traceback (see :func:`without_worker_traceback`), the innermost first."""
    if "Original Traceback" not in message:
        return []
    return [found["code"] for found in _WORKER_LINE.finditer(message)][::-1]


# -- numpy 2.4 ---------------------------------------------------------------------------------------------------------

#: ``ValueError`` of ``numpy.concatenate([])``; MMEngine 0.10.7 ends in it when a data set without images is serialised.
NUMPY_NOTHING_TO_CONCATENATE = "need at least one array"

# -- MMEngine 0.10.7 ---------------------------------------------------------------------------------------------------

#: ``FileNotFoundError`` of ``load_from`` and ``resume``.
MMENGINE_NO_CHECKPOINT = "can not be found"


class UnregisteredType(NamedTuple):
    """A ``type`` that is missing in a registry.

    Attributes:
        name: The ``type``.
        scope: Scope of the registry, for example ``mmdet``.
        registry: Name of the registry, for example ``model``.
    """

    name: str
    scope: str
    registry: str


_UNREGISTERED = re.compile(
    r"(?P<name>.+?) is not in the (?P<scope>\w+)::(?P<registry>[^:]+?) registry\. Please check whether the value"
)


def unregistered_type(error: KeyError) -> UnregisteredType | None:
    """The type that ``mmengine.registry.build_from_cfg`` did not find; None for other errors.

    MMEngine 0.10.7: ``X is not in the mmdet::model registry. Please check whether the value of `X` is correct ...``.
    """
    found = _UNREGISTERED.match(str(error.args[0])) if error.args else None
    return UnregisteredType(**found.groupdict()) if found else None


# -- Warnings ----------------------------------------------------------------------------------------------------------

#: Beginnings of warnings of packages about their own code: setuptools 81 for MMEngine 0.10.7's import of
#: ``pkg_resources``, and MMDetection 3.3.0's anchor generators.
INTERNAL_WARNINGS = ("pkg_resources is deprecated", "DeprecationWarning: `num_anchors` is deprecated")
