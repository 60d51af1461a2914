"""Orderly exit of a run's processes."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed

if distributed.is_available():
    # A function of this module keeps the process group that exists at its first import, as a default argument.
    import torch.distributed.nn


class Preempted(SystemExit):
    """Exit of the process after a stop signal.

    Args:
        code: The exit code.
        together: Whether all ranks exit at this point.
    """

    def __init__(self, code: int, together: bool) -> None:
        super().__init__(code)
        self.together = together


@contextmanager
def leaving_process_group() -> Iterator[None]:
    """Destroy the process group when the block ends; MMEngine's runner creates it and never destroys it.

    Gloo's threads release the tensors of a collective some time after it is done and need the interpreter for that. If
    the interpreter has ended by then, the process aborts: exit code 134 after a successful training. Destroying the
    group waits for these threads, provided that nothing references the group any more. Everything that does, in
    particular the runner with its model, must be out of scope at the end of the block.

    After an error the group is not destroyed: collectives may be under way, and this might wait for the other ranks.
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
    # NCCL waits for the other ranks or, in some versions of torch, aborts their communicators. Gloo does neither, as
    # long as no collective of this rank is under way.
    if not together and backend != distributed.Backend.GLOO:
        return
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    gc.collect()
    distributed.destroy_process_group()
