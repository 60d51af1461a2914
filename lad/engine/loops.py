"""Training loops that resume in the middle of an epoch.

MMEngine's epoch-based loop restarts an interrupted epoch (and trains its first part twice); its iteration-based loop
loads all earlier images again. Neither restores the order of the data if the config names no seed, nor the random
numbers, nor runs a validation that was due.
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
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader

# Key in the message hub, and so in the checkpoint, of what the order of the data depends on.
DATA_ORDER = "data_order"
# Key of the last validated iteration. MMEngine logs keys that begin with "train", "val" or "test".
VALIDATED_ITER = "last_validation"


def build_resumable(runner: Runner, dataloader: DataLoader | dict) -> DataLoader:
    """Build a data loader with a :class:`ResumableBatchSampler`; one that is built already is returned as it is."""
    if isinstance(dataloader, dict):
        config = dict(dataloader)
        config["batch_sampler"] = dict(
            type=ResumableBatchSampler,
            batch_sampler=config.get("batch_sampler"),
            drop_last=config.pop("drop_last", False),
            seed=runner.seed,
        )
        loader: DataLoader = runner.build_dataloader(
            config, seed=runner.seed, diff_rank_seed=runner._randomness_cfg.get("diff_rank_seed", False)
        )
        dataset: Any = loader.dataset
        # torch's fetcher looks the method up on the instance, so the data set keeps its type, which hooks rely on.
        dataset.__getitems__ = SeededItems(dataset)
    else:
        loader = dataloader
    shield_workers(loader)
    return loader


def load_anew(loop: BaseLoop) -> None:
    """Begin to load again, from where a training loop is, after its data set was changed.

    Worker processes have copies of the data set from the moment at which they began, and an iteration-based loop lets
    them begin in its constructor.

    Args:
        loop: A training loop, before its first step.
    """
    loop.dataloader._iterator = None  # persistent workers, which would be used again
    if isinstance(loop, ResumableIterBasedTrainLoop) and loop.batch_sampler is not None:
        loop._seek_position(loop.batch_sampler)
    elif isinstance(loop, IterBasedTrainLoop):
        loop.dataloader_iterator = _InfiniteDataloaderIterator(loop.dataloader)


class _Resumable(BaseLoop):
    """Base of both loops: order of the data, position in the epoch, pending validation."""

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> None:
        dataloader = build_resumable(runner, dataloader)
        if isinstance(dataloader.batch_sampler, ResumableBatchSampler):
            # The iteration-based loop starts to load in its constructor, before its position is known.
            dataloader.batch_sampler.paused = True
        super().__init__(runner, dataloader, *args, **kwargs)
        self._validation_pending = False

    @property
    def batch_sampler(self) -> ResumableBatchSampler | None:
        """The resumable batch sampler, or None for a data loader that the caller built."""
        sampler = self.dataloader.batch_sampler
        return sampler if isinstance(sampler, ResumableBatchSampler) else None

    def _restore_data_order(self) -> None:
        """Restore from the checkpoint what the order of the data depends on."""
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
                f"batch size or number of processes changed, so {self._restart_position(sampler, here)}.",
                logger="current",
                level=logging.WARNING,
            )
        # After a resume this is the seed of the first run, whether or not the config names one.
        sampler.seed = self.runner.seed
        inner = sampler.sampler
        if saved and saved["seed"] is not None and hasattr(inner, "seed"):
            inner.seed = saved["seed"]
        hub.update_info(DATA_ORDER, dict(seed=getattr(inner, "seed", None), batches=here))

    def _find_pending_validation(self) -> None:
        """Check whether the run ended between a checkpoint and the validation that belongs to it."""
        hub = self.runner.message_hub
        done = hub.get_info(VALIDATED_ITER) if VALIDATED_ITER in hub.runtime_info else None
        self._validation_pending = (
            self.runner.val_loop is not None
            and self._iter > 0
            and done != self._iter
            and self._validation_is_due()
        )

    def _run_pending_validation(self) -> None:
        if self._validation_pending:
            self._validation_pending = False
            self.runner.val_loop.run()
            self.runner.model.train()

    def run(self) -> Any:
        """Launch training."""
        self._restore_data_order()
        sampler = self.batch_sampler
        if sampler is not None:
            self._seek_position(sampler)
        self._find_pending_validation()
        if self._validation_pending and self._is_finished():
            # Nothing is left to train.
            self.runner.call_hook("before_train")
            self._run_pending_validation()
            self.runner.call_hook("after_train")
            return self.runner.model
        return super().run()


@LOOPS.register_module()
class ResumableEpochBasedTrainLoop(_Resumable, EpochBasedTrainLoop):
    """``EpochBasedTrainLoop`` that resumes in the middle of an epoch; takes the same arguments."""

    _skipped = 0

    def _is_finished(self) -> bool:
        return self._epoch >= self._max_epochs

    def _restart_position(self, sampler: ResumableBatchSampler, batches: int) -> str:
        if sampler.counts_epochs:
            self._iter = self._epoch * batches
        return "the interrupted epoch begins anew"

    def _seek_position(self, sampler: ResumableBatchSampler) -> None:
        self._skipped = self._iter - self._epoch * len(self.dataloader)

    def _validation_is_due(self) -> bool:
        self._decide_current_val_interval()
        return (
            self._iter == self._epoch * len(self.dataloader)
            and self._epoch >= self.val_begin
            and (self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs)
        )

    def run_epoch(self) -> None:
        """Run one epoch, or the rest of it."""
        self._run_pending_validation()
        if self.batch_sampler is not None:
            self.batch_sampler.seek(self._epoch, self._skipped)
        super().run_epoch()
        self._skipped = 0

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Run one iteration with its own seed."""
        seed_step(self.runner.seed, self._iter)
        super().run_iter(idx + self._skipped, data_batch)


class _SkippedSteps:
    """Iterator that returns None for the first ``steps`` items, which MMEngine's loop skips.

    OneDL's loop skips them by :meth:`skip_iter`, if at all.
    """

    def __init__(self, iterator: Iterator, steps: int) -> None:
        self.iterator = iterator
        self.steps = steps

    def __iter__(self) -> _SkippedSteps:
        return self

    def __next__(self) -> Any:
        if self.steps > 0:
            self.steps -= 1
            return None
        return next(self.iterator)

    def skip_iter(self, steps: int) -> None:
        """Skip items."""
        self.steps = max(0, self.steps - steps)


@LOOPS.register_module()
class ResumableIterBasedTrainLoop(_Resumable, IterBasedTrainLoop):
    """``IterBasedTrainLoop`` that resumes without loading earlier batches; takes the same arguments."""

    def _is_finished(self) -> bool:
        return self._iter >= self._max_iters

    def _validation_is_due(self) -> bool:
        self._decide_current_val_interval()
        return self._iter >= self.val_begin and (
            self._iter % self.val_interval == 0 or self._iter == self._max_iters
        )

    def _restart_position(self, sampler: ResumableBatchSampler, batches: int) -> str:
        return "the order of the data is another one from here on"

    def _seek_position(self, sampler: ResumableBatchSampler) -> None:
        epoch, skip = divmod(self._iter, len(self.dataloader)) if sampler.counts_epochs else (0, self._iter)
        sampler.seek(epoch, skip)
        iterator = _InfiniteDataloaderIterator(self.dataloader)
        iterator._epoch = epoch
        # OneDL's loop can be told to skip nothing.
        skipped = 0 if getattr(self, "fast_forward_on_resume", False) else self._iter
        self.dataloader_iterator = _SkippedSteps(iterator, skipped)

    def run_iter(self, data_batch: Any) -> None:
        """Run one iteration with its own seed."""
        self._run_pending_validation()
        seed_step(self.runner.seed, self._iter)
        super().run_iter(data_batch)
