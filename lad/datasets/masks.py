"""Checks of the segmentations of COCO annotations."""

from __future__ import annotations

from typing import Any

from lad.datasets.coco_file import is_number

import numpy as np

#: A kind of problem, its description, and whether it is fatal.
MaskProblem = tuple[str, str, bool]


#: Types of coordinates.
_NUMBERS = frozenset({int, float})


def has_closed_polygons(segmentation: Any) -> bool:
    """Whether a ``segmentation`` is a list of polygons of at least three corners each, which no reader objects to."""
    return (
        isinstance(segmentation, list)
        and bool(segmentation)
        and all(
            isinstance(polygon, list)
            and len(polygon) >= 6
            and len(polygon) % 2 == 0
            and _NUMBERS.issuperset(map(type, polygon))
            for polygon in segmentation
        )
    )


def mask_problem(segmentation: Any, width: Any, height: Any, evaluated: bool = False) -> MaskProblem | None:
    """The problem of an annotation's ``segmentation``; None if it has none.

    Both of COCO's forms are known: polygons (lists of x and y in pixels) and run lengths (``counts``, a list or a
    compressed text, and ``size``: height, width).

    Args:
        segmentation: Of an annotation; None if it has none.
        width: The image's width in pixels, None if unknown.
        height: The height likewise.
        evaluated: Whether masks are evaluated: COCO's evaluation raises an error at polygons that training ignores.
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
    closed = [len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation]
    if evaluated and not all(closed):
        return (
            "not_a_mask",
            "one of its polygons has no three corners, at which COCO's evaluation stops",
            True,
        )
    if not any(closed):
        return "empty_mask", "none of its polygons has three corners: MMDetection ignores the object", False
    return None


def _run_length_problem(segmentation: dict, width: Any, height: Any) -> MaskProblem | None:
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(counts, (list, str)) or not (
        isinstance(size, list) and len(size) == 2 and all(map(is_number, size))
    ):
        return "not_a_mask", "its RLE has no counts (list or text) and size [height, width]", True
    if None not in (width, height) and size != [height, width]:
        return "mask_size", f"its RLE is for {size[1]}x{size[0]} pixels, its image has {width}x{height}", True
    try:
        runs = decode_runs(counts) if isinstance(counts, str) else counts
        whole = all(map(is_number, runs)) and min(runs, default=0) >= 0
    except ValueError as error:
        return "not_a_mask", f"its RLE cannot be decoded: {error}", True
    total = sum(runs) if whole else None
    if total != size[0] * size[1]:
        told = "other things than numbers of pixels" if total is None else f"{total} pixels"
        return "not_a_mask", f"its RLE counts {told} of {size[0] * size[1]}", True
    return None


def decode_runs(text: str) -> list[int]:
    """Run lengths of COCO's compressed text.

    Each number is in groups of 5 bits, the lowest first: a character's code minus 48 has them in its low bits, 32 where
    more follow, and 16 in the last for a negative number. From the fourth on, numbers are differences to the last but
    one (``rleFrString`` of pycocotools).

    Raises:
        ValueError: it is no such text.
    """
    codes = np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64) - 48
    if ((codes < 0) | (codes >= 64)).any():
        raise ValueError("it has other characters than COCO's")
    more = codes >= 32
    if not len(codes) or more[-1]:
        raise ValueError("it is cut")
    ends = np.flatnonzero(~more)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts > 6).any():
        raise ValueError("a number in it is too long")
    shift = 5 * (np.arange(len(codes)) - np.repeat(starts, ends - starts + 1))
    numbers = np.add.reduceat((codes & 31) << shift, starts)
    numbers -= ((codes[ends] & 16) > 0) * (np.int64(1) << (5 * (ends - starts + 1)))
    # Two interleaved sums of differences: numbers 1, 3, 5, ... and 2, 4, 6, ...; the first number stands by itself.
    numbers[1::2], numbers[2::2] = np.cumsum(numbers[1::2]), np.cumsum(numbers[2::2])
    return numbers.tolist()
