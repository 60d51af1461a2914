"""Pictures, profiling and the dry-run report; nothing that trains imports it."""

from lad.analysis import hooks

__all__ = ["hooks"]
