"""Versions of the software that a training runs with."""

from __future__ import annotations

import platform
import subprocess

import lad
from suites.digest import ROOT

import mmdet
import mmengine
import torch

UNKNOWN = "unknown"


def versions() -> str:
    """Versions of Python, the packages and the project, with the commit that the checkout is at just now."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        commit = UNKNOWN
    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, mmdet {mmdet.__version__}, "
        f"mmengine {mmengine.__version__}, lad {lad.__version__}, commit {commit}"
    )
