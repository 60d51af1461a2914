"""Protection of data-loading workers from stop signals."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable

from torch.utils.data import DataLoader

#: Signals that cluster schedulers send some time before they kill a job.
STOP_SIGNALS = ("SIGTERM", "SIGUSR1")


def shield_workers(dataloader: DataLoader) -> None:
    """Let workers that a data loader starts from now on ignore stop signals that do not come from their parent.

    Slurm and ``kill -- -GROUP`` signal every process of a job. A worker that died would end the run in the middle of
    its last checkpoint. Signals of the parent process work as usual: torch ends hanging workers with them.
    """
    if not isinstance(dataloader.worker_init_fn, _Shield):
        dataloader.worker_init_fn = _Shield(dataloader.worker_init_fn)


class _Shield:
    """``worker_init_fn`` that blocks the stop signals before it calls the original one."""

    def __init__(self, initialise: Callable[[int], None] | None) -> None:
        self.initialise = initialise

    def __call__(self, worker_id: int) -> None:
        parent = multiprocessing.parent_process()
        # Only sigwaitinfo gives the sender of a signal; macOS lacks it.
        if parent is not None and hasattr(signal, "sigwaitinfo"):
            signals = [getattr(signal, name) for name in STOP_SIGNALS]
            signal.pthread_sigmask(signal.SIG_BLOCK, signals)
            threading.Thread(target=_exit_on_signal_of, args=(parent.pid, signals), daemon=True).start()
        if self.initialise is not None:
            self.initialise(worker_id)


def _exit_on_signal_of(parent: int, signals: list[int]) -> None:
    while signal.sigwaitinfo(signals).si_pid != parent:
        pass
    # As torch's own handler ends a worker.
    os._exit(0)
