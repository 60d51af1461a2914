"""Distillation methods, one a file."""

from lad.methods.base import DistillationMethod, Step
from lad.methods.label_assignment import LabelAssignmentDistillation

__all__ = ["DistillationMethod", "LabelAssignmentDistillation", "Step"]
