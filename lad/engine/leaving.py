"""How the processes of a run end."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed


class Preempted(SystemExit):
    """Ends the process because a signal asked for it.

    Args:
        code: The exit code.
        together: Whether all ranks leave at this point.
    """

    def __init__(self, code: int, together: bool) -> None:
        super().__init__(code)
        self.together = together


@contextmanager
def leaving_process_group() -> Iterator[None]:
    """Leave the process group of a run that is over; MMEngine's runner joins it and never leaves.

    Gloo's threads let go of a collective's tensors some time after it is done, and need the interpreter for that. One
    that comes too late finds none, and the process aborts: exit code 134 after a training that has succeeded. Leaving
    waits for these threads, provided that nothing holds the group any more. So whatever does, a runner with its model
    above all, must have gone out of scope at the end of the block.

    After an error nobody leaves: the other ranks may be waiting in a collective, and leaving might wait for them.
    """
    try:
        yield
    except Preempted as stop:
        traceback.clear_frames(stop.__traceback__)
        _leave(stop.together)
        raise
    _leave(together=True)


def _leave(together: bool) -> None:
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    # NCCL waits for the other ranks, Gloo for none.
    if together or distributed.get_backend() == distributed.Backend.GLOO:
        gc.collect()
        distributed.destroy_process_group()
