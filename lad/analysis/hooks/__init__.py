"""MMEngine hooks that draw pictures during training."""

from lad.analysis.hooks.assignment_visualization import AssignmentVisualizationHook
from lad.analysis.hooks.role_switch import RoleSwitchHook

__all__ = ["AssignmentVisualizationHook", "RoleSwitchHook"]
