"""Compatibility with current PyTorch: patches of MMEngine, MMCV and MMDetection, and safe loading of files."""

from lad.compat.patches import apply, coco_evaluation_by

__all__ = ["apply", "coco_evaluation_by"]
