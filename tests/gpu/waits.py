"""Where a training step waits for the device."""

import sys
import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import torch

#: Part of the warning of `torch.cuda.set_sync_debug_mode("warn")`.
TEXT = "synchronizing CUDA operation"
#: The waits of lad that are documented where they stand, by module and function.
DOCUMENTED = {
    # PAA's candidates of a batch: their number comes to the host once.
    ("lad.assignment.candidates", "fetch"),
    # Whether a teacher's predictions are finite, before assigners that wait for each image themselves.
    ("lad.assignment.finite", "check_finite"),
    # The number of candidates of an image, as RTMDet's and YOLOX' assigners wait for it themselves.
    ("lad.exchange.co_learning.assigner", "_decide"),
    # The priors that a head uses of an image, as the head itself does.
    ("lad.exchange.seams.assigner", "_used"),
    # A live teacher's detections: suppression, which decides how many there are, has waited before.
    ("lad.networks.frozen", "detect"),
    ("lad.networks.mask_boxes", "with_boxes"),
    # The costs of all pairs of queries come to the host once, as in MMDetection's own Hungarian matching.
    ("lad.methods.transformers.matching", "match"),
}
PACKAGES = ("lad", "mmdet", "mmengine", "mmcv")


@dataclass(frozen=True, order=True)
class Wait:
    """A wait, by the innermost function of this project or of OpenMMLab that made it.

    Autograd's own threads have no such function: ``'autograd'``.
    """

    module: str
    function: str

    @property
    def is_documented(self):
        """Whether it is one of another package, or a documented one."""
        return not self.module.startswith("lad.") or (self.module, self.function) in DOCUMENTED


@contextmanager
def recorded_waits():
    """A set that fills with the block's waits; on a CPU with those that are warned of by hand."""
    found = set()

    def show(message, category, filename, lineno, file=None, line=None):
        if TEXT in str(message):
            found.add(_innermost(sys._getframe(1)))

    mode = torch.cuda.get_sync_debug_mode() if torch.cuda.is_available() else None
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        if mode is not None:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            if mode is not None:
                torch.cuda.set_sync_debug_mode(mode)


def _innermost(frame):
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.split(".")[0] in PACKAGES:
            return Wait(module, frame.f_code.co_name)
        frame = frame.f_back
    return Wait("autograd", "")
