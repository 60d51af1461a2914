"""Costs of a config's networks: parameters, multiply-adds, and the time and memory of a training step."""

from lad.analysis.profiling.batch import input_shape, random_batch
from lad.analysis.profiling.building import build_offline
from lad.analysis.profiling.complexity import Complexity, complexity_of
from lad.analysis.profiling.report import ModelReport, profile_config
from lad.analysis.profiling.step import PartCost, StepCost, measure_step

__all__ = [
    "Complexity",
    "ModelReport",
    "PartCost",
    "StepCost",
    "build_offline",
    "complexity_of",
    "input_shape",
    "measure_step",
    "profile_config",
    "random_batch",
]
