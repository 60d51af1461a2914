"""Hooks of MMEngine's runner that draw."""

from lad.analysis.hooks.assignment_visualization import AssignmentVisualizationHook
from lad.analysis.hooks.role_switch import RoleSwitchHook

__all__ = ["AssignmentVisualizationHook", "RoleSwitchHook"]
