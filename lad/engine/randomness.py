"""Seeding of each training step and sample by its position in the run.

MMEngine seeds its generators once; their later state depends on everything that drew from them: iterations,
validations, workers of the data loader. None of it is in a checkpoint. Here each training step and each training sample
starts from a seed of its own, so a resumed run draws the same numbers as an uninterrupted one, for any number of
workers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.device import get_device
from torch.utils.data import Dataset, get_worker_info

# First word of a seed's entropy: the seeds of steps and of samples are never equal.
STEP, SAMPLE = 1, 2


class Draw(NamedTuple):
    """Index of a sample and the entropy of its random transforms.

    Attributes:
        index: Index in the data set.
        entropy: Seed, epoch and position in the epoch.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nothing calls
    entropy: tuple[int, ...]


def seed_step(seed: int, iteration: int) -> None:
    """Seed Python, NumPy, torch and the accelerators for one training step."""
    word = _seed_host((STEP, seed, iteration))
    if get_device() != "cpu":
        torch.manual_seed(word)


def _seed_host(entropy: Sequence[int]) -> int:
    """Seed the generators on the host; returns the 64-bit seed that torch got."""
    # SeedSequence mixes its input: neighbouring positions get independent seeds.
    words = np.random.SeedSequence([value % 2**64 for value in entropy]).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch_seed = int(words[2]) << 32 | int(words[3])
    # Not torch.manual_seed: it also queues a call for GPUs, with a stack trace, in processes that have none.
    torch.default_generator.manual_seed(torch_seed)
    return torch_seed


@contextmanager
def _preserved_host_state() -> Iterator[None]:
    """Restore the state of the host's generators on exit; not in a worker, where nothing else draws from them."""
    if get_worker_info() is not None:
        yield
        return
    states = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class SeededItems:
    """Replacement of a data set's ``__getitems__`` that seeds each sample separately.

    Args:
        dataset: Any map-style data set.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __call__(self, draws: Sequence[Draw]) -> list[Any]:
        """Load the samples of a batch that :class:`ResumableBatchSampler` yields."""
        samples = []
        with _preserved_host_state():
            for index, entropy in draws:
                _seed_host((SAMPLE, *entropy))
                samples.append(self.dataset[index])
        return samples
