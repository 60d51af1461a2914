"""Error raised for operators that only the compiled mmcv implements."""

from __future__ import annotations


def needs_compiled_mmcv(what: str) -> NotImplementedError:
    """Create the error for operator ``what``, with how to install it."""
    return NotImplementedError(
        f"mmcv operator {what} needs the compiled mmcv: uninstall mmcv-lite and install mmcv 2.1 "
        f"built for this PyTorch (see mmcv's installation page)."
    )
