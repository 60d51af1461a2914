"""Run ``tools/benchmark.py``, which trains and compares the entries of a suite.

It is imported from where the package keeps it: ``suites``, which it imports, lies beside it and is no part of ``lad``.
"""

from __future__ import annotations

import importlib
import sys

from lad.base.config import SHIPPED


def main() -> None:
    """Run ``lad benchmark``."""
    sys.path.insert(0, str(SHIPPED / "tools"))
    importlib.import_module("benchmark").main()
