"""How the processes of a run end."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed

if distributed.is_available():
    # A function of this module keeps the process group of the time of its first import as a default argument, for ever.
    import torch.distributed.nn


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

    After an error nobody leaves: collectives may be under way, and leaving might wait for the other ranks.
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
    backend = distributed.get_backend()
    # NCCL waits for the other ranks or, in some versions of torch, cuts them off. Gloo does neither, as long as no
    # collective of this rank is under way.
    if not together and backend != distributed.Backend.GLOO:
        return
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    gc.collect()
    distributed.destroy_process_group()
