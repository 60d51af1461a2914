"""Distillation of object detectors as MMDetection plugins; importing this registers everything."""

# ruff: noqa: E402 -- the patches come before anything that imports MMDetection.
from lad import compat

compat.apply()

from lad import analysis, datasets, detectors, engine, evaluation, heads, methods

__version__ = "0.2.0"
__all__ = ["analysis", "compat", "datasets", "detectors", "engine", "evaluation", "heads", "methods"]
