"""Norms that have a single value to normalise: what PyTorch refuses, said in terms of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lad.compat.messages import TORCH_ONE_VALUE
from lad.errors import UnsupportedError

from torch import Tensor


@contextmanager
def explaining_single_values(owner: str, inputs: Tensor) -> Iterator[None]:
    """Name the size of the batch where a batch or group norm of the block has a single value to normalise.

    Args:
        owner: What runs, for the message.
        inputs: (N, C, H, W) images.

    Raises:
        UnsupportedError: it has.
    """
    try:
        yield
    except ValueError as error:
        if TORCH_ONE_VALUE not in str(error):
            raise
        raise UnsupportedError(
            f"{owner}: a batch or group norm has a single value to normalise, on the coarsest map of a batch "
            f"of {len(inputs)} of {inputs.shape[-2]}x{inputs.shape[-1]} pixels: train with at least two images "
            "a process (train_dataloader.batch_size), or with larger ones."
        ) from error
