"""Utilities without knowledge of networks: configs, captured outputs, modes, replaced attributes, phases."""
