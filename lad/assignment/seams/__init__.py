"""Where heads decide their labels, and how a teacher's decision is put in that place."""

from lad.assignment.seams.assigner import AssignerSeam, DensePredictions, flatten_levels, level_sizes
from lad.assignment.seams.base import Mode, Seam, check_same_classes, check_same_priors
from lad.assignment.seams.paa import PAASeam
from lad.assignment.seams.table import SEAMS, find_seam

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
