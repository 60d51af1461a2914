"""Detection heads."""

from lad.heads.batched_paa_head import BatchedPAAHead
from lad.heads.cop_head import PAACOPHead
from lad.heads.dense import DensePredictions, class_logits, flatten_levels, level_sizes
from lad.heads.iop_head import PAAIOPHead
from lad.heads.objectness_head import ObjectnessPAAHead

__all__ = [
    "BatchedPAAHead",
    "DensePredictions",
    "ObjectnessPAAHead",
    "PAACOPHead",
    "PAAIOPHead",
    "class_logits",
    "flatten_levels",
    "level_sizes",
]
