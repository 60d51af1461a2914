"""Processes of a federation: they end with the one that started them."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lad.base.processes import locked

#: Seconds that a process is given to end before it is killed.
PATIENCE = 15.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def start(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, keep: Sequence[int] = ()
) -> subprocess.Popen:
    """Start a command that is terminated when this process ends, however it does (on Linux).

    Args:
        command: Program and arguments.
        log: File that its output is appended to.
        environment: What is added to that of this process.
        keep: Descriptors that it inherits.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            pass_fds=tuple(keep),
            # Ctrl-C is handled by this process, which ends the command.
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_with(pid: int, grace: float = 3.0) -> None:
    """End this process once another one has ended.

    Flower's server app waits for ever for a SuperLink that was killed.

    Args:
        pid: Of the other process.
        grace: Seconds that are left to end by itself.
    """

    def watch() -> None:
        while True:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                time.sleep(grace)
                os._exit(1)
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()


def stop(processes: Iterable[subprocess.Popen]) -> None:
    """End processes and what they have started (their process groups): SIGTERM, then SIGKILL."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    end = time.monotonic() + PATIENCE
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, end - time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_training(config: Path, folder: Path, log: Path) -> int:
    """Train a config in a folder, or go on with its training, in a process of its own; returns its exit code."""
    command = [sys.executable, "-m", "lad", "train", str(config), "--work-dir", str(folder), "--resume"]
    # What an earlier process has left behind still writes its checkpoint.
    with locked(folder) as lock:
        process = start(command, log, keep=(lock,))
        try:
            return process.wait()
        finally:
            stop([process])


@contextmanager
def one_of(slots: int, folder: Path) -> Iterator[None]:
    """Hold one of a number of slots; waits while all are taken by other processes.

    Args:
        slots: How many there are.
        folder: Where their lock files are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        for number in range(slots):
            descriptor = os.open(folder / f"slot_{number}", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            try:
                yield
            finally:
                os.close(descriptor)
            return
        time.sleep(0.2)
