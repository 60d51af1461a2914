"""Distillation methods, one a file."""

from lad.methods.base import DistillationMethod, Step
from lad.methods.hint import HintDistillation
from lad.methods.label_assignment import LabelAssignmentDistillation
from lad.methods.rcnn import RCNNDistillation
from lad.methods.rpn import RPNDistillation
from lad.methods.soft_label import SoftLabelDistillation

__all__ = [
    "DistillationMethod",
    "HintDistillation",
    "LabelAssignmentDistillation",
    "RCNNDistillation",
    "RPNDistillation",
    "SoftLabelDistillation",
    "Step",
]
