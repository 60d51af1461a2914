"""mmcv's compiled kernels, answered by torchvision and torch where no compiled mmcv is installed.

mmcv-lite ships the Python side of every operator but not the extension module ``mmcv._ext`` behind it.
:func:`install` puts a module of that name in its place. With a compiled mmcv nothing happens.
"""

from lad.mmcv_ops.extension import install, is_installed

__all__ = ["install", "is_installed"]
