"""MMEngine's training loops, which find their place again in the middle of an epoch.

MMEngine's epoch-based loop begins an interrupted epoch anew (and trains its first part twice); its iteration-based loop
loads every image that was already seen. Neither restores the order of the data where the config names no
seed, nor random numbers, nor makes up for a validation that was due.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from lad.engine.batch_sampler import ResumableBatchSampler
from lad.engine.randomness import SeededItems, seed_step
from lad.engine.workers import shield_workers

from mmengine.logging import print_log
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader

# Where the message hub, and so the checkpoint, keeps what the order of the data depends on.
DATA_ORDER = "data_order"
# MMEngine logs what begins with "train", "val" or "test".
VALIDATED_ITER = "last_validation"


def build_resumable(runner: Runner, dataloader: DataLoader | dict) -> DataLoader:
    """A data loader whose batches can begin anywhere; one that is built already stays as it is."""
    if isinstance(dataloader, dict):
        config = dict(dataloader)
        config["batch_sampler"] = dict(
            type=ResumableBatchSampler,
            batch_sampler=config.get("batch_sampler"),
            drop_last=config.pop("drop_last", False),
            seed=runner.seed,
        )
        dataloader = runner.build_dataloader(
            config, seed=runner.seed, diff_rank_seed=runner._randomness_cfg.get("diff_rank_seed", False)
        )
        dataset = dataloader.dataset
        # torch's fetcher asks the object, so an attribute is enough, and hooks that look into the data set find it.
        dataset.__getitems__ = SeededItems(dataset)
    shield_workers(dataloader)
    return dataloader


class _Resumable:
    """What both loops share."""

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> None:
        dataloader = build_resumable(runner, dataloader)
        if isinstance(dataloader.batch_sampler, ResumableBatchSampler):
            # The iteration-based loop starts to load at once, before it knows where to begin.
            dataloader.batch_sampler.paused = True
        super().__init__(runner, dataloader, *args, **kwargs)
        self._owes_validation = False

    @property
    def batch_sampler(self) -> ResumableBatchSampler | None:
        """The resumable batch sampler, or None for a data loader that the caller built."""
        sampler = self.dataloader.batch_sampler
        return sampler if isinstance(sampler, ResumableBatchSampler) else None

    def _restore_data_order(self) -> None:
        """Take over from the checkpoint what the order of the data depends on."""
        hub, sampler = self.runner.message_hub, self.batch_sampler
        if sampler is None:
            print_log(
                "The training data loader was built outside the loop: an interrupted epoch begins anew.",
                logger="current",
                level=logging.WARNING,
            )
            return
        saved = hub.get_info(DATA_ORDER) if self._iter > 0 and DATA_ORDER in hub.runtime_info else None
        here = len(self.dataloader)
        if saved and saved["batches"] != here:
            print_log(
                f"The checkpoint's epochs had {saved['batches']} iterations and this run's have {here}: the data set, "
                f"batch size or number of processes changed, so {self._find_other_place(here)}.",
                logger="current",
                level=logging.WARNING,
            )
        # After a resume this is the seed of the first run, whether or not the config names one.
        sampler.seed = self.runner.seed
        inner = sampler.sampler
        if saved and saved["seed"] is not None and hasattr(inner, "seed"):
            inner.seed = saved["seed"]
        hub.update_info(DATA_ORDER, dict(seed=getattr(inner, "seed", None), batches=here))

    def _find_owed_validation(self) -> None:
        """Whether the run ended between a checkpoint and the validation that belongs to it."""
        hub = self.runner.message_hub
        done = hub.get_info(VALIDATED_ITER) if VALIDATED_ITER in hub.runtime_info else None
        self._owes_validation = (
            self.runner.val_loop is not None
            and self._iter > 0
            and done != self._iter
            and self._validation_is_due()
        )

    def _validate_if_owed(self) -> None:
        if self._owes_validation:
            self._owes_validation = False
            self.runner.val_loop.run()
            self.runner.model.train()

    def run(self) -> Any:
        """Launch training."""
        self._restore_data_order()
        if self.batch_sampler is not None:
            self._find_place()
        self._find_owed_validation()
        if self._owes_validation and self._is_finished():
            # Nothing is left to train.
            self.runner.call_hook("before_train")
            self._validate_if_owed()
            self.runner.call_hook("after_train")
            return self.runner.model
        return super().run()


@LOOPS.register_module()
class ResumableEpochBasedTrainLoop(_Resumable, EpochBasedTrainLoop):
    """``EpochBasedTrainLoop`` that continues an epoch where it was left. Arguments as there."""

    _skipped = 0

    def _is_finished(self) -> bool:
        return self._epoch >= self._max_epochs

    def _find_other_place(self, batches: int) -> str:
        if self.batch_sampler.counts_epochs:
            self._iter = self._epoch * batches
        return "the interrupted epoch begins anew"

    def _find_place(self) -> None:
        self._skipped = self._iter - self._epoch * len(self.dataloader)

    def _validation_is_due(self) -> bool:
        self._decide_current_val_interval()
        return (
            self._iter == self._epoch * len(self.dataloader)
            and self._epoch >= self.val_begin
            and (self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs)
        )

    def run_epoch(self) -> None:
        """Iterate one epoch, or what is left of it."""
        self._validate_if_owed()
        if self.batch_sampler is not None:
            self.batch_sampler.seek(self._epoch, self._skipped)
        super().run_epoch()
        self._skipped = 0

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Iterate one batch, with random numbers of its own."""
        seed_step(self.runner.seed, self._iter)
        super().run_iter(idx + self._skipped, data_batch)


class _Advanced:
    """An iterator whose first steps were taken elsewhere: they are answered with None."""

    def __init__(self, iterator: Iterator, steps: int) -> None:
        self.iterator = iterator
        self.steps = steps

    def __iter__(self) -> _Advanced:
        return self

    def __next__(self) -> Any:
        if self.steps > 0:
            self.steps -= 1
            return None
        return next(self.iterator)


@LOOPS.register_module()
class ResumableIterBasedTrainLoop(_Resumable, IterBasedTrainLoop):
    """``IterBasedTrainLoop`` that finds its place without loading what came before. Arguments as there."""

    def _is_finished(self) -> bool:
        return self._iter >= self._max_iters

    def _validation_is_due(self) -> bool:
        self._decide_current_val_interval()
        return self._iter >= self.val_begin and (
            self._iter % self.val_interval == 0 or self._iter == self._max_iters
        )

    def _find_other_place(self, batches: int) -> str:
        return "the order of the data is another one from here on"

    def _find_place(self) -> None:
        sampler = self.batch_sampler
        epoch, skip = divmod(self._iter, len(self.dataloader)) if sampler.counts_epochs else (0, self._iter)
        sampler.seek(epoch, skip)
        iterator = _InfiniteDataloaderIterator(self.dataloader)
        iterator._epoch = epoch
        self.dataloader_iterator = _Advanced(iterator, self._iter)

    def run_iter(self, data_batch: Any) -> None:
        """Iterate one batch, with random numbers of its own."""
        self._validate_if_owed()
        seed_step(self.runner.seed, self._iter)
        super().run_iter(data_batch)
