"""Detectors that learn from other detectors."""

from lad.detectors.distillation import DistillationDetector

__all__ = ["DistillationDetector"]
