"""Checks of the segmentations of COCO annotations."""

from __future__ import annotations

from typing import Any

from lad.datasets.coco_file import is_number

#: A kind of problem, its description, and whether it is fatal.
MaskProblem = tuple[str, str, bool]


def mask_problem(segmentation: Any, width: Any, height: Any) -> MaskProblem | None:
    """The problem of an annotation's ``segmentation``; None if it has none.

    Both of COCO's forms are known: polygons (lists of x and y in pixels) and run lengths (``counts``, a list or a
    compressed text, and ``size``: height, width).

    Args:
        segmentation: Of an annotation; None if it has none.
        width: The image's width in pixels, None if unknown.
        height: The height likewise.
    """
    if not segmentation:
        return "missing_mask", "no segmentation, and masks are read", True
    if isinstance(segmentation, dict):
        return _run_length_problem(segmentation, width, height)
    if not isinstance(segmentation, list):
        return "not_a_mask", f"its segmentation is a {type(segmentation).__name__}, not polygons or RLE", True
    for polygon in segmentation:
        if not (isinstance(polygon, list) and all(map(is_number, polygon))):
            return (
                "not_a_mask",
                f"its segmentation has a polygon that is no list of numbers: {polygon!r:.60}",
                True,
            )
    if not any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation):
        return "empty_mask", "none of its polygons has three corners: MMDetection ignores the object", False
    return None


def _run_length_problem(segmentation: dict, width: Any, height: Any) -> MaskProblem | None:
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(counts, (list, str)) or not (isinstance(size, list) and len(size) == 2):
        return "not_a_mask", "its RLE has no counts (list or text) and size [height, width]", True
    if None not in (width, height) and size != [height, width]:
        return (
            "mask_size",
            f"its RLE is for {size[1]}x{size[0]} pixels, its image has {width}x{height}",
            True,
        )
    if isinstance(counts, list) and sum(counts) != size[0] * size[1]:
        return "not_a_mask", f"its RLE counts {sum(counts)} pixels of {size[0] * size[1]}", True
    return None
