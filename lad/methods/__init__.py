"""Distillation methods, one a file."""

from lad.methods.base import DistillationMethod, Step
from lad.methods.label_assignment import LabelAssignmentDistillation
from lad.methods.soft_label import SoftLabelDistillation

__all__ = ["DistillationMethod", "LabelAssignmentDistillation", "SoftLabelDistillation", "Step"]
