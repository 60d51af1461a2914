"""Data-loading processes that outlive the signal that asks their run to stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable

from torch.utils.data import DataLoader

#: What cluster schedulers send some time before they kill.
STOP_SIGNALS = ("SIGTERM", "SIGUSR1")


def shield_workers(dataloader: DataLoader) -> None:
    """Let workers that a data loader starts from now on obey the stop signals of their own run alone.

    Slurm and ``kill -- -GROUP`` signal every process of a job. A worker that died would end the run in the middle of
    its last checkpoint. What a worker's parent sends works as usual: torch ends workers that hang in this way.
    """
    if not isinstance(dataloader.worker_init_fn, _Shield):
        dataloader.worker_init_fn = _Shield(dataloader.worker_init_fn)


class _Shield:
    def __init__(self, initialise: Callable[[int], None] | None) -> None:
        self.initialise = initialise

    def __call__(self, worker_id: int) -> None:
        parent = multiprocessing.parent_process()
        # Only sigwaitinfo tells who sent a signal; macOS has none.
        if parent is not None and hasattr(signal, "sigwaitinfo"):
            signals = [getattr(signal, name) for name in STOP_SIGNALS]
            signal.pthread_sigmask(signal.SIG_BLOCK, signals)
            threading.Thread(target=_obey, args=(parent.pid, signals), daemon=True).start()
        if self.initialise is not None:
            self.initialise(worker_id)


def _obey(parent: int, signals: list[int]) -> None:
    while signal.sigwaitinfo(signals).si_pid != parent:
        pass
    # As torch's own handler ends a worker.
    os._exit(0)
