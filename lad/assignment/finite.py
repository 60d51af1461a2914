"""Predictions from which labels cannot be assigned: NaN and infinite ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_finite(batch_img_metas: Sequence[dict], *predictions: Tensor) -> None:
    """Refuse predictions that are not finite. Waits for the device.

    Args:
        batch_img_metas: Metadata of the N images, for their names.
        predictions: Of these images, each (N, ...).

    Raises:
        FloatingPointError: names the images.
    """
    # NaN and infinity survive a sum.
    sums = [values.detach().flatten(1).sum(1, dtype=torch.float32) for values in predictions]
    refuse_not_finite(torch.stack(sums).isfinite().all(0).tolist(), batch_img_metas)


def refuse_not_finite(finite: Sequence[bool | int], batch_img_metas: Sequence[dict]) -> None:
    """Refuse predictions that are not finite: every comparison with NaN is false, so labels would be wrong unnoticed.

    Args:
        finite: Whether the predictions of each image are, on the host.
        batch_img_metas: Metadata of the images, for their names.

    Raises:
        FloatingPointError: names the images.
    """
    if all(finite):
        return
    names = [
        str(meta.get("img_path") or meta.get("img_id") or f"number {number} of the batch")
        for number, (meta, good) in enumerate(zip(batch_img_metas, finite, strict=True))
        if not good
    ]
    raise FloatingPointError(
        f"predictions for image {', '.join(names)} are NaN or infinite: the labels cannot be assigned; "
        "lower the learning rate or clip gradients, and check the teacher and that image."
    )
