"""Run commands with their output in a file, under a lock of their folder."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"
#: Seconds between two questions whether a command is to go on.
POLL = 1.0


class Processes:
    """The running commands, which can be stopped together.

    Args:
        threads: ``OMP_NUM_THREADS`` of the commands; None leaves the environment as it is.
        cwd: Working directory of the commands.
    """

    def __init__(self, threads: int | None = None, cwd: Path | None = None) -> None:
        self._environment = (
            dict(os.environ) if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
        )
        self._cwd = cwd
        self._running: set[subprocess.Popen] = set()
        self._guard = threading.Lock()
        self.stopped = False

    def run(
        self, command: Sequence[str], log: Path, lock: int, go_on: Callable[[], bool] | None = None
    ) -> int:
        """Run a command to its end and return its exit code; its output is added to ``log``.

        Args:
            command: Program and arguments.
            log: File that its output is appended to.
            lock: A descriptor from :func:`locked`. The command inherits it: if this process is killed, the folder stays
                locked until the command, which lives on, has ended.
            go_on: Asked every second; where it is False the command is terminated (SIGTERM).
        """
        with open(log, "ab") as output:
            with self._guard:
                if self.stopped:
                    return -signal.SIGTERM
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    cwd=self._cwd,
                    pass_fds=(lock,),
                    # Ctrl-C is handled by this process, which terminates the command and waits for it.
                    start_new_session=True,
                )
                self._running.add(process)
            try:
                return process.wait() if go_on is None else _watch(process, go_on)
            finally:
                with self._guard:
                    self._running.discard(process)

    def stop(self) -> None:
        """Terminate every command (SIGTERM: a training writes a checkpoint first) and start no more."""
        with self._guard:
            self.stopped = True
            for process in self._running:
                process.send_signal(signal.SIGTERM)


def _watch(process: subprocess.Popen, go_on: Callable[[], bool]) -> int:
    while True:
        try:
            return process.wait(timeout=POLL)
        except subprocess.TimeoutExpired:
            if not go_on():
                process.send_signal(signal.SIGTERM)
                return process.wait()


@contextmanager
def locked(folder: Path, poll: float = 1.0, stopped: Callable[[], bool] = lambda: False) -> Iterator[int]:
    """Hold the lock of a folder; waits while another process, or a command that one left behind, holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stopped():
                    raise KeyboardInterrupt from None
                time.sleep(poll)
        yield descriptor
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of a folder."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
