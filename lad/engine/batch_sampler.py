"""Batch sampler that can start in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator

from lad.engine.randomness import Draw

from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, Sampler


@DATA_SAMPLERS.register_module()
class ResumableBatchSampler(Sampler):
    """Wrapper of a batch sampler that can start at any batch of an epoch without loading the earlier ones.

    It yields lists of :class:`lad.engine.randomness.Draw`, the indices that
    :class:`lad.engine.randomness.SeededItems` takes.

    Args:
        sampler: Yields the indices; its attributes ``epoch`` and ``seed`` are set if it has them.
        batch_size: Samples in a batch.
        batch_sampler: Config of the batch sampler that groups them; by default ``torch.utils.data.BatchSampler``.
        drop_last: Whether that default drops an incomplete last batch.
        seed: Seed of the samples' random transforms, combined with their position.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        batch_sampler: dict | None = None,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.seed = seed
        if batch_sampler is None:
            self.batches = BatchSampler(sampler, batch_size, drop_last)
        else:
            self.batches = DATA_SAMPLERS.build(
                batch_sampler, default_args=dict(sampler=sampler, batch_size=batch_size)
            )
        self.paused = False
        self._epoch = self._skip = 0

    @property
    def counts_epochs(self) -> bool:
        """Whether the sampler ends after an epoch; the infinite samplers of MMEngine and MMDetection do not."""
        return hasattr(self.sampler, "epoch")

    def seek(self, epoch: int, skip: int) -> None:
        """Start the next iterator ``skip`` batches into an epoch; later ones start at the following epochs."""
        self.paused = False
        self._epoch, self._skip = epoch, skip

    def __iter__(self) -> Iterator[list[Draw]]:
        if self.paused:
            return
        epoch, skip = self._epoch, self._skip
        self._epoch, self._skip = epoch + 1, 0
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        rank, world_size = get_dist_info()
        position = 0
        for number, indices in enumerate(self.batches):
            if number >= skip:
                # Samples are dealt to the ranks in turn: the same position, and so the same random
                # numbers, in one process as in several.
                yield [
                    Draw(index, (self.seed, epoch, (position + place) * world_size + rank))
                    for place, index in enumerate(indices)
                ]
            position += len(indices)

    def __len__(self) -> int:
        return len(self.batches)
