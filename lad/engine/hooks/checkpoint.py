"""Checkpoint hook with atomic writes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lad.engine.accumulation import average_accumulated
from lad.engine.checkpoints import (
    ATOMIC,
    LAST_CHECKPOINT,
    find_resumable,
    read_last_checkpoint,
    remove_partial_files,
    write_last_checkpoint,
)
from lad.engine.hooks.preemption import INTERRUPTED
from lad.engine.loops import VALIDATED_ITER
from lad.errors import CheckpointError

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """``CheckpointHook`` of MMEngine that keeps a valid checkpoint at every moment; takes the same options.

    A checkpoint is written to a temporary file, synced and renamed; ``last_checkpoint`` changes after that, and
    outdated ones are removed last. A run that resumes from the last checkpoint of its work_dir uses the newest valid
    one if that is damaged. This holds for local folders; other storage backends are written to as MMEngine does.

    Raises:
        CheckpointError: while training, where a checkpoint cannot be written; when resuming, where none can be read.
    """

    # Set by MMEngine, which has no types.
    backend_args: dict | None
    file_backend: Any
    keep_ckpt_ids: deque[int]

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint to resume from."""
        if not isinstance(runner._train_loop, BaseLoop):
            return  # a test or a validation, perhaps of a run that is going on in this folder
        _check_shared_work_dir(runner)
        if runner._resume and runner._load_from is None:
            runner._load_from = _broadcast_checkpoint(runner)
        elif is_main_process():
            # A restart must not resume from an earlier run in the same folder.
            (Path(runner.work_dir) / LAST_CHECKPOINT).unlink(missing_ok=True)

    def before_train(self, runner: Runner) -> None:
        """Select the atomic backend for local folders and remove temporary files."""
        remote = "://" in str(self.out_dir or runner.work_dir)
        if not remote and self.backend_args is None and self.file_client_args is None:
            self.backend_args = ATOMIC
        super().before_train(runner)
        if self.backend_args == ATOMIC and is_main_process():
            for folder in (self.out_dir, runner.work_dir):
                remove_partial_files(Path(folder))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Save the best checkpoint and record that the last one is validated."""
        if not isinstance(runner._train_loop, BaseLoop):
            return super().after_val_epoch(runner, metrics)
        runner.message_hub.update_info(VALIDATED_ITER, runner.iter)
        with self._deferred_removals():
            super().after_val_epoch(runner, metrics)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save, update ``last_checkpoint``, then remove outdated checkpoints (MMEngine removes first)."""
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        hub = runner.message_hub
        hub.update_info("last_ckpt", self.last_ckpt)
        kept: list[int] = []
        if self.max_keep_ckpts > 0:
            kept = [number for number in self.keep_ckpt_ids if number != step] + [step]
            # The outdated ones too: a run that dies before it removes them removes them when it resumes.
            hub.update_info("keep_ckpt_ids", kept)
        average_accumulated(runner)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_last_checkpoint(runner.work_dir, self.last_ckpt)
            (Path(runner.work_dir) / INTERRUPTED).unlink(missing_ok=True)
        if self.max_keep_ckpts > 0:
            for outdated in kept[: -self.max_keep_ckpts]:
                path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(outdated))
                if is_main_process() and self.file_backend.isfile(path):
                    self.file_backend.remove(path)
            self.keep_ckpt_ids = deque(kept[-self.max_keep_ckpts :], self.max_keep_ckpts)
            hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))

    @contextmanager
    def _deferred_removals(self) -> Iterator[None]:
        """Defer removals of files to the end of the block: MMEngine removes the previous best checkpoint first."""
        backend = self.file_backend
        self.file_backend = deferred = _DeferredRemoval(backend)
        try:
            yield
        finally:
            self.file_backend = backend
        best = {getattr(self, "best_ckpt_path", None), *getattr(self, "best_ckpt_path_dict", {}).values()}
        for path in deferred.removed - best:
            backend.remove(path)


class _DeferredRemoval:
    """File backend that records removals instead of carrying them out."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.removed: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.removed.add(path)


def _check_shared_work_dir(runner: Runner) -> None:
    """Check that either all processes found a checkpoint to resume from or none did.

    Raises:
        CheckpointError: they do not share the folder.
    """
    if len(set(all_gather_object(bool(runner._resume)))) > 1:
        raise CheckpointError(
            f"some processes see a checkpoint to resume from in {runner.work_dir} and some do not: put the work_dir on "
            "a file system that all nodes share."
        )


def _broadcast_checkpoint(runner: Runner) -> str | None:
    """Find the checkpoint to resume from on rank 0 and broadcast it."""
    answer: list[Any] = [None]
    if is_main_process():
        try:
            found = find_resumable(runner.work_dir)
        except CheckpointError as error:
            answer = [error]
        else:
            answer = [None if found.path is None else str(found.path)]
            if found.path is not None and found.refused:
                runner.logger.warning(f"{'; '.join(found.refused)}. Going on from {found.path}.")
            elif found.path is not None and read_last_checkpoint(runner.work_dir) is None:
                runner.logger.warning(
                    f"There is no {LAST_CHECKPOINT} in {runner.work_dir}. Going on from {found.path}."
                )
    broadcast_object_list(answer)
    if isinstance(answer[0], CheckpointError):
        raise answer[0]
    return answer[0]
