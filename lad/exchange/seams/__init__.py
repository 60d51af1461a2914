"""Seams: the places in heads where label assignment is decided, and the replay of a teacher's decision there."""

from lad.exchange.seams.assigner import AssignerSeam
from lad.exchange.seams.base import Mode, Seam, check_same_classes, check_same_priors, check_same_sizes
from lad.exchange.seams.paa import PAASeam
from lad.exchange.seams.table import SEAMS, find_seam

__all__ = [
    "SEAMS",
    "AssignerSeam",
    "Mode",
    "PAASeam",
    "Seam",
    "check_same_classes",
    "check_same_priors",
    "check_same_sizes",
    "find_seam",
]
