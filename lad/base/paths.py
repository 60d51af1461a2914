"""Paths of files and folders."""

from __future__ import annotations

from pathlib import Path


def file_in_path(path: Path) -> Path | None:
    """The part of a path that exists and is no folder, so that nothing can be below it; None if there is none."""
    for part in (path, *path.parents):
        if part.exists():
            return None if part.is_dir() else part
    return None
