"""Compiler versions that mmcv reports when it collects the environment."""

from __future__ import annotations


def get_compiler_version() -> str:
    """Version of the compiler: none was used."""
    return "n/a"


def get_compiling_cuda_version() -> str:
    """Version of the CUDA compiler: none was used."""
    return "n/a"
