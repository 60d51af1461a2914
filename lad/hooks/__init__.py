"""Hooks of MMEngine's runner."""

from lad.hooks.checkpoint import AtomicCheckpointHook
from lad.hooks.preemption import PreemptionHook
from lad.hooks.role_switch import RoleSwitchHook
from lad.hooks.save_networks import SaveNetworksHook

__all__ = ["AtomicCheckpointHook", "PreemptionHook", "RoleSwitchHook", "SaveNetworksHook"]
