"""What a config's networks cost: parameters, multiply-adds, and the time and memory of a training step."""

from lad.profiling.batch import input_shape, random_batch
from lad.profiling.building import build_offline
from lad.profiling.complexity import Complexity, complexity_of
from lad.profiling.report import ModelReport, profile_config
from lad.profiling.step import PartCost, StepCost, measure_step

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
