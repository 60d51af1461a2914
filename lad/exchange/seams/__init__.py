"""Where heads decide their labels, and how a teacher's decision is put in that place."""

from lad.exchange.seams.assigner import AssignerSeam, DensePredictions, flatten_levels, level_sizes
from lad.exchange.seams.base import Mode, Seam, check_same_classes, check_same_priors
from lad.exchange.seams.paa import PAASeam
from lad.exchange.seams.table import SEAMS, find_seam

__all__ = [
    "SEAMS",
    "AssignerSeam",
    "DensePredictions",
    "Mode",
    "PAASeam",
    "Seam",
    "check_same_classes",
    "check_same_priors",
    "find_seam",
    "flatten_levels",
    "level_sizes",
]
