"""Distillation of object detectors as MMDetection plugins; importing this registers everything."""

from lad import mmcv_ops

mmcv_ops.install()

__version__ = "0.1.0"
