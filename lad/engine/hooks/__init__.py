"""Hooks of MMEngine's runner."""

from lad.engine.hooks.checkpoint import AtomicCheckpointHook
from lad.engine.hooks.checkpoint_fit import CheckpointFitHook
from lad.engine.hooks.detection_files import DetectionFileHook
from lad.engine.hooks.knn_accuracy import KNNAccuracyHook
from lad.engine.hooks.numerical_faults import NumericalFaultHook
from lad.engine.hooks.phases import PhaseHook
from lad.engine.hooks.preemption import PreemptionHook
from lad.engine.hooks.resume import ResumeHook
from lad.engine.hooks.save_exits import SaveExitsHook
from lad.engine.hooks.save_networks import SaveNetworksHook
from lad.engine.hooks.teacher_accuracy import TeacherCheckHook

__all__ = [
    "AtomicCheckpointHook",
    "CheckpointFitHook",
    "DetectionFileHook",
    "KNNAccuracyHook",
    "NumericalFaultHook",
    "PhaseHook",
    "PreemptionHook",
    "ResumeHook",
    "SaveExitsHook",
    "SaveNetworksHook",
    "TeacherCheckHook",
]
