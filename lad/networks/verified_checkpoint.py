"""Load a checkpoint that must fit a model key by key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from lad.errors import CheckpointError
from lad.networks.fit import Fit, compare_state

from mmdet.models.detectors import BaseDetector
from mmengine.runner import CheckpointLoader
from torch import Tensor

#: Keys that a detector's checkpoint may hold beside the detector: what a distillation trains with it
#: (:mod:`lad.detectors.state`), and MMDetection 2's EMA.
BESIDE = ("distillation.", "ema_")


def load_verified(model: BaseDetector, path: str, owner: str) -> dict:
    """Load a checkpoint that must fit the model key by key; returns its ``meta``.

    Keys of a distillation (``distillation.``) and of MMDetection 2's EMA (``ema_``) are not the detector's and
    are passed over; ``num_batches_tracked`` may be missing, as for MMEngine.

    Args:
        model: The detector; it is not changed if the checkpoint does not fit.
        path: Path or URL.
        owner: Whose checkpoint it is, for messages.

    Raises:
        CheckpointError: missing, unexpected or mismatched keys; an unreadable file.
    """
    if not isinstance(path, str):
        raise CheckpointError(
            f"{owner}: checkpoint must be a path or URL, got {type(path).__name__} {path!r}."
        )
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location="cpu", logger=None)
    except FileNotFoundError as error:
        raise CheckpointError(f"{owner}: there is no checkpoint {path!r}; give its path or URL.") from error
    source = f"{owner}: checkpoint {path}"
    state = state_dict_of(checkpoint, source)
    for key in [key for key in state if key.startswith(BESIDE)]:
        del state[key]
    refuse_misfit(
        compare_state(model, state), source, "give the config that this checkpoint was trained with."
    )
    model.load_state_dict(state, strict=False)
    meta = checkpoint.get("meta")
    return meta if isinstance(meta, dict) else {}


def class_names(meta: Any) -> tuple[str, ...] | None:
    """The class names in a checkpoint's ``meta``; None if it names none.

    MMEngine's are ``dataset_meta['classes']`` (``CLASSES`` in it before MMDetection 3.0), and MMDetection 2's are
    ``CLASSES``.
    """
    if not isinstance(meta, Mapping):
        return None
    of_dataset = meta.get("dataset_meta")
    found = [meta.get("CLASSES")]
    if isinstance(of_dataset, Mapping):
        found = [of_dataset.get("classes"), of_dataset.get("CLASSES"), *found]
    classes = next((names for names in found if isinstance(names, (list, tuple)) and names), None)
    return tuple(map(str, classes)) if classes else None


def state_dict_of(checkpoint: Any, source: str) -> OrderedDict[str, Tensor]:
    """A copy of the state dict in the content of a checkpoint file, without DDP's prefix ``module.``.

    Args:
        checkpoint: A dict with ``state_dict``, or a state dict.
        source: Where it comes from, for messages.

    Raises:
        CheckpointError: it is neither.
    """
    loaded = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, Mapping) else None
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckpointError(f"{source} holds no state_dict: it is no detector's; give another file.")
    wrong = next((key for key, value in loaded.items() if not isinstance(key, str)), None)
    if wrong is None:
        # Modules may save anything as their extra state.
        weights = {key: value for key, value in loaded.items() if not key.endswith("_extra_state")}
        wrong = next((key for key, value in weights.items() if not isinstance(value, Tensor)), None)
    if wrong is not None:
        raise CheckpointError(
            f"{source} holds no state_dict: {wrong!r} is no tensor with a name; give a file with the key 'state_dict'."
        )
    state = OrderedDict((key.removeprefix("module."), value) for key, value in loaded.items())
    if hasattr(loaded, "_metadata"):
        state._metadata = loaded._metadata  # type: ignore[attr-defined]  # torch's own convention
    return state


def refuse_misfit(fit: Fit, source: str, advice: str) -> None:
    """Refuse a checkpoint that does not fit.

    Args:
        fit: Its comparison with the model, without the keys that may differ.
        source: The checkpoint and its owner, for the message.
        advice: What to do.

    Raises:
        CheckpointError: names counts and the first keys.
    """
    if problem := fit.problem():
        raise CheckpointError(f"{source} is of {problem}; {advice}")
