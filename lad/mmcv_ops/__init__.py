"""Replacement of mmcv's compiled kernels by torchvision and torch where no compiled mmcv is installed.

mmcv-lite ships the Python side of every operator but not the extension module ``mmcv._ext`` behind it.
:func:`install` provides a module of that name. With a compiled mmcv it does nothing.
"""

from lad.mmcv_ops.extension import install, is_installed

__all__ = ["install", "is_installed"]
