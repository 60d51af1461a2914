"""Compatibility with today's PyTorch: patches of MMEngine and MMCV, and safe loading of files."""

from lad.compat.patches import apply, coco_evaluation_by

__all__ = ["apply", "coco_evaluation_by"]
