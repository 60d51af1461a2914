"""Load a checkpoint that must fit a model key by key."""

from __future__ import annotations

from lad.errors import CheckpointError, listed

from mmdet.models.detectors import BaseDetector
from mmengine.runner import CheckpointLoader


def load_verified(model: BaseDetector, path: str, owner: str) -> dict:
    """Load a checkpoint that must fit the model key by key; returns its ``meta``.

    Keys of a distillation (``distillation.``) and of MMDetection 2's EMA (``ema_``) are not the detector's and
    are passed over; ``num_batches_tracked`` may be missing, as for MMEngine.

    Raises:
        CheckpointError: missing, unexpected or mismatched keys; an unreadable file.
    """
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location="cpu", logger=None)
    except FileNotFoundError as error:
        raise CheckpointError(f"{owner}: there is no checkpoint {path!r}; give its path or URL.") from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{owner}: {path} holds no state_dict.")
    loaded = checkpoint.get("state_dict", checkpoint)
    state = type(loaded)()
    for key, value in loaded.items():
        if not key.startswith(("distillation.", "ema_")):
            state[key.removeprefix("module.")] = value
    if hasattr(loaded, "_metadata"):
        state._metadata = loaded._metadata

    own = model.state_dict()
    advice = "give the config that this checkpoint was trained with."
    wrong = [key for key, value in state.items() if key in own and own[key].shape != value.shape]
    if wrong:
        shapes = ", ".join(
            f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in wrong[:2]
        )
        more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
        raise CheckpointError(
            f"{owner}: checkpoint {path} is of another architecture or number of classes: {shapes}{more}; {advice}"
        )
    result = model.load_state_dict(state, strict=False)
    missing = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
    problems = []
    if missing:
        problems.append(f"{len(missing)} keys are missing ({listed(missing, 2)})")
    if result.unexpected_keys:
        problems.append(f"{len(result.unexpected_keys)} are unknown ({listed(result.unexpected_keys, 2)})")
    if problems:
        raise CheckpointError(
            f"{owner}: checkpoint {path} is of another architecture: {' and '.join(problems)}; {advice}"
        )
    return checkpoint.get("meta") or {}
