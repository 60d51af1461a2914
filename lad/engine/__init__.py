"""Training loops that resume exactly, atomic checkpoints, hooks and optimizer wrappers."""

from lad.engine import hooks, optim
from lad.engine.batch_sampler import ResumableBatchSampler
from lad.engine.checkpoints import AtomicLocalBackend
from lad.engine.defaults import survive_interruption
from lad.engine.loops import ResumableEpochBasedTrainLoop, ResumableIterBasedTrainLoop
from lad.engine.plain_config import standalone

__all__ = [
    "AtomicLocalBackend",
    "ResumableBatchSampler",
    "ResumableEpochBasedTrainLoop",
    "ResumableIterBasedTrainLoop",
    "hooks",
    "optim",
    "standalone",
    "survive_interruption",
]
