"""Entry point of the console command ``lad``.

A package of its own, because importing anything from ``lad`` imports PyTorch and MMDetection, which takes seconds.
"""

import importlib.util
from pathlib import Path


def main() -> None:
    """Run ``lad/__main__.py`` without importing ``lad``."""
    package = importlib.util.find_spec("lad")  # finds a package on the top level without importing it
    path = Path(package.origin).with_name("__main__.py")
    spec = importlib.util.spec_from_file_location("lad_main", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()
