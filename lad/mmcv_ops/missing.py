"""The error for whatever only the compiled mmcv can do."""

from __future__ import annotations


def needs_compiled_mmcv(what: str) -> NotImplementedError:
    """The error to raise for ``what``: it names the operator and says how to get it."""
    return NotImplementedError(
        f"mmcv operator {what} needs the compiled mmcv: uninstall mmcv-lite and install mmcv 2.1 "
        f"built for this PyTorch (see mmcv's installation page)."
    )
