"""Whether MMDetection, MMEngine and MMCV are installed, which no dependency of this distribution can ask for.

They come from one of several sets of distributions (extras ``lite``, ``openmmlab`` and ``onedl``) that share their
modules' names.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from lad.errors import MissingPackageError

MODULES = ("mmengine", "mmcv", "mmdet")


def require_stack(modules: Sequence[str] = MODULES) -> None:
    """Check that modules can be imported, without importing them.

    Raises:
        MissingPackageError: one of them is missing.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            f"lad needs {' and '.join(missing)}: pip install 'lad-detection[lite]' (nothing to compile), "
            "'lad-detection[onedl]' (the maintained forks), or 'lad-detection[openmmlab]' beside a compiled mmcv."
        )
