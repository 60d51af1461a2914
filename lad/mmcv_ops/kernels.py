"""Every covered kernel by the name mmcv calls it."""

from __future__ import annotations

from collections.abc import Callable

KERNELS: dict[str, Callable] = {}
