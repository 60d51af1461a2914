"""What mmcv tells about its compilation when it collects the environment."""

from __future__ import annotations


def get_compiler_version() -> str:
    """No compiler was involved."""
    return "n/a"


def get_compiling_cuda_version() -> str:
    """No CUDA compiler was involved."""
    return "n/a"
