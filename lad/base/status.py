"""Messages and the status of trainings that run in other processes, on the terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text


class StatusDisplay:
    """Prints messages, with a status line below them that is updated in place.

    Where the output is no terminal, the status is printed as a message once a minute.

    Args:
        print_line: Prints a message.
        console: Console of the status line; by default standard output.
    """

    def __init__(self, print_line: Callable[[str], None], console: Console | None = None) -> None:
        self._print_line = print_line
        self._console = console or Console()
        self._live: Live | None = None
        self._last = 0.0
        #: pycocotools is silenced by redirecting standard output, which all threads share: hold this meanwhile.
        self.output = threading.Lock()

    @property
    def interval(self) -> float:
        """Seconds between two updates of the status."""
        return 1.0 if self._console.is_terminal else 5.0

    def message(self, line: str) -> None:
        """Print a line, from any thread."""
        with self.output:
            self._clear()
            self._print_line(line)

    def show(self, status: str) -> None:
        """Update the status line."""
        with self.output:
            if not self._console.is_terminal:
                if time.monotonic() - self._last >= 60:
                    self._last = time.monotonic()
                    self._print_line(status)
                return
            if self._live is None:
                self._live = Live(
                    console=self._console,
                    auto_refresh=False,
                    transient=True,
                    redirect_stdout=False,
                    redirect_stderr=False,
                )
                self._live.start()
            self._live.update(Text(status), refresh=True)

    def clear(self) -> None:
        """Remove the status line."""
        with self.output:
            self._clear()

    def _clear(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def clock(seconds: float | None) -> str:
    """Format seconds as ``1:02:03`` or ``2:03``; ``?`` for None."""
    if seconds is None:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
