"""Compatibility with current PyTorch: patches of MMEngine, MMCV and MMDetection, and safe loading of files."""

from lad.compat.stack import require_stack

# Before the patches, which import what they patch.
require_stack()

from lad.compat.patches import apply, coco_evaluation_by, coco_results_of_nothing  # noqa: E402

__all__ = ["apply", "coco_evaluation_by", "coco_results_of_nothing", "require_stack"]
