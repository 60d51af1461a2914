"""Hooks of MMEngine's runner."""

from lad.hooks.assignment_visualization import AssignmentVisualizationHook
from lad.hooks.checkpoint import AtomicCheckpointHook
from lad.hooks.numerical_faults import NumericalFaultHook
from lad.hooks.phases import PhaseHook
from lad.hooks.preemption import PreemptionHook
from lad.hooks.role_switch import RoleSwitchHook
from lad.hooks.save_networks import SaveNetworksHook
from lad.hooks.teacher_check import TeacherCheckHook

__all__ = [
    "AssignmentVisualizationHook",
    "AtomicCheckpointHook",
    "NumericalFaultHook",
    "PhaseHook",
    "PreemptionHook",
    "RoleSwitchHook",
    "SaveNetworksHook",
    "TeacherCheckHook",
]
