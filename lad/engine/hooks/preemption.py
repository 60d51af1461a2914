"""Hook that saves a checkpoint and exits on a stop signal."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lad.engine.accumulation import average_accumulated
from lad.engine.checkpoints import ATOMIC, write_last_checkpoint
from lad.engine.leaving import Preempted
from lad.engine.model import detector_of
from lad.engine.workers import STOP_SIGNALS, shield_workers
from lad.errors import ConfigError

import torch
from mmengine.dist import all_gather_object, all_reduce, barrier, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

#: The checkpoint of an interrupted run; removed when the next regular one is safe.
INTERRUPTED = "interrupted.pth"
RANK_BUFFERS = "rank_buffers"


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On a stop signal, finish the iteration, save a checkpoint and exit with a code of its own.

    All ranks exit after the same iteration, though the signal reaches them at different moments: after each iteration
    they exchange one number. Rank 0 writes ``interrupted.pth`` and its path to ``last_checkpoint`` while the others
    wait. While accumulating gradients, the accumulation is finished first. A signal during validation ends the run at
    once: the state was saved before the validation began.

    Args:
        signals: Names of signals. Slurm sends SIGTERM when it preempts or requeues, and the one of ``--signal``.
        exit_code: By default 75, the system's EX_TEMPFAIL: failed for now, try again.
        interval: Iterations between two checks for a signal; more than 1 if iterations are very short.

    Raises:
        ConfigError: an unknown signal name.
    """

    # After every hook that changes what is saved.
    priority = "LOWEST"

    def __init__(
        self, signals: Sequence[str] = STOP_SIGNALS, exit_code: int = os.EX_TEMPFAIL, interval: int = 1
    ) -> None:
        for name in signals:
            if not hasattr(signal, name):
                raise ConfigError(
                    f"PreemptionHook: there is no signal {name!r}; use names like 'SIGTERM' and 'SIGUSR1'."
                )
        self.signals = [getattr(signal, name) for name in signals]
        self.exit_code = exit_code
        self.interval = interval
        self._received: int | None = None
        self._previous: dict[int, Any] = {}
        self._saved_iter: int | None = None
        self._buffers: list[dict[str, torch.Tensor]] = []

    def before_run(self, runner: Runner) -> None:
        """Install the signal handlers; a test or a validation alone has nothing to save."""
        if not isinstance(runner._train_loop, BaseLoop):
            return
        if threading.current_thread() is not threading.main_thread():
            runner.logger.warning("PreemptionHook: signals can be handled in the main thread only.")
            return
        for number in self.signals:
            self._previous[number] = signal.signal(number, self._receive)
        for loop in (runner._train_loop, runner._val_loop):
            if hasattr(loop, "dataloader"):
                shield_workers(loop.dataloader)

    def after_run(self, runner: Runner) -> None:
        """Restore the previous signal handlers."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _receive(self, number: int, frame: FrameType | None) -> None:
        # Nothing else is safe here: the signal may have come in the middle of anything.
        self._received = number

    def after_train_iter(self, runner: Runner, batch_idx: int, **kwargs: Any) -> None:
        """Save and exit if any rank received a signal."""
        steps = runner.iter + 1
        # Between two steps of the optimizer: a checkpoint in the middle of an accumulation would average the gradients
        # over the ranks, and so round otherwise than the undisturbed run.
        accumulated = steps % getattr(runner.optim_wrapper, "_accumulative_counts", 1) == 0
        if steps % self.interval == 0 and accumulated and self._any_rank_received_signal():
            self._save(runner, epoch=runner.epoch, iteration=steps)
            self._exit(runner, f"after iteration {steps}", together=True)

    def before_val(self, runner: Runner) -> None:
        """Save the training's state: a validation may be long and cannot be resumed."""
        if not isinstance(runner._train_loop, BaseLoop) or runner.iter == 0:
            return
        if not self._is_saved(runner):
            self._save(runner, epoch=runner.epoch, iteration=runner.iter)
        barrier()

    def after_val_iter(self, runner: Runner, batch_idx: int, **kwargs: Any) -> None:
        """Exit at once after a signal: a validation changes nothing that a checkpoint contains."""
        # Each rank by itself: ranks need not have the same number of batches.
        if self._received is not None and isinstance(runner._train_loop, BaseLoop):
            self._exit(runner, "in the validation", together=False)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Record the iteration that is saved; add the buffers that differ between ranks."""
        if "optimizer" in checkpoint:
            self._saved_iter = checkpoint["meta"]["iter"]
        if self._buffers:
            checkpoint[RANK_BUFFERS] = self._buffers

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restore the buffers of each rank."""
        buffers = checkpoint.pop(RANK_BUFFERS, [])
        if not runner._resume:
            return
        self._saved_iter = checkpoint["meta"]["iter"]
        if len(buffers) == get_world_size():
            checkpoint["state_dict"].update(buffers[runner.rank])

    def _any_rank_received_signal(self) -> bool:
        received = self._received is not None
        if get_world_size() == 1:
            return received
        flag = torch.tensor([received], dtype=torch.int32)
        all_reduce(flag, op="max")
        return bool(flag)

    def _is_saved(self, runner: Runner) -> bool:
        """Whether rank 0 has saved the state as it is now; the same answer on all ranks."""
        flag = torch.tensor([not is_main_process() or self._saved_iter == runner.iter], dtype=torch.int32)
        all_reduce(flag, op="min")
        return bool(flag)

    def _save(self, runner: Runner, epoch: int, iteration: int) -> None:
        if get_world_size() > 1:
            # Running statistics of batch norm differ between ranks until something averages them.
            model = detector_of(runner)
            state = model.state_dict()
            trained = {name for name, _ in model.named_parameters()}
            own = {name: value.cpu() for name, value in state.items() if name not in trained}
            self._buffers = all_gather_object(own)
        average_accumulated(runner)
        runner.save_checkpoint(
            runner.work_dir, INTERRUPTED, meta=dict(epoch=epoch, iter=iteration), backend_args=ATOMIC
        )
        self._buffers = []
        if is_main_process():
            write_last_checkpoint(runner.work_dir, str(Path(runner.work_dir) / INTERRUPTED))
        barrier()

    def _exit(self, runner: Runner, where: str, together: bool) -> None:
        name = "another rank's signal" if self._received is None else signal.Signals(self._received).name
        runner.logger.warning(
            f"Stopped {where} on {name}; the state is saved in {runner.work_dir}. Go on with --resume."
        )
        # A launcher signals the other ranks when one exits; that must not kill them on their way out.
        for number in self.signals:
            signal.signal(number, signal.SIG_IGN)
        raise Preempted(self.exit_code, together)
