"""Read files of weights: safetensors, and what PyTorch saves, without running code from them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path

from lad.errors import CheckpointError
from lad.networks.foreign.packages import require
from lad.networks.verified_checkpoint import state_dict_of

from mmengine.runner import CheckpointLoader
from torch import Tensor

#: What files of other projects call their state dict.
STATE_DICTS = ("state_dict", "model")
#: What whole models of other projects begin the names of their vision model with.
PREFIXES = ("backbone.net.", "backbone.", "vision_model.", "model.", "encoder.", "net.")


def read_weights(path: str, owner: str) -> OrderedDict[str, Tensor]:
    """The state dict in a file of safetensors, or in one of PyTorch.

    Args:
        path: Path; of PyTorch's files a URL too.
        owner: Whose weights they are, for messages.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe or holds something else.
    """
    if not isinstance(path, str):
        raise CheckpointError(
            f"{owner}: checkpoint must be a path or URL, got {type(path).__name__} {path!r}."
        )
    source = f"{owner}: checkpoint {path}"
    if path.endswith(".safetensors"):
        if not Path(path).is_file():
            raise CheckpointError(f"{owner}: there is no checkpoint {path!r}; give the path of a file.")
        try:
            return OrderedDict(require("safetensors.torch").load_file(path))
        # The library's own error, and those of the system.
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            raise CheckpointError(
                f"{source} cannot be read ({reason}): it is truncated, corrupt or of another kind; write or "
                "download it again."
            ) from error
    try:
        content = CheckpointLoader.load_checkpoint(path, map_location="cpu", logger=None)
    except FileNotFoundError as error:
        raise CheckpointError(f"{owner}: there is no checkpoint {path!r}; give its path or URL.") from error
    if isinstance(content, Mapping):
        content = next(
            (content[key] for key in STATE_DICTS if isinstance(content.get(key), Mapping)), content
        )
    return state_dict_of(content, source)


def without_prefix(state: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Weights by the names that they have in a model, where a file has all of them behind a prefix.

    Args:
        state: The file's.
        own: The model's names.
    """
    own = set(own)
    if own & state.keys():
        return dict(state)
    for prefix in PREFIXES:
        found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if own & found.keys():
            return found
    return dict(state)
