"""COCO evaluation of detections that are stored in a file."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

from lad.errors import DataError

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

METRICS = ("mAP", "AP50", "AP75", "AP_s", "AP_m", "AP_l")


def load_ground_truth(path: str | Path) -> COCO:
    """Load COCO annotations without pycocotools' output."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def coco_evaluation(
    ground_truth: COCO,
    detections: str | Path | list[dict],
    categories: Sequence[int] = (),
    areas: bool = True,
) -> COCOeval:
    """Run pycocotools' per-image evaluation of boxes; the caller runs ``accumulate`` and ``summarize``.

    Args:
        ground_truth: The annotations; all of their images count.
        detections: COCO results (``image_id``, ``category_id``, ``bbox``, ``score``) or a JSON file of them.
        categories: Category ids to evaluate; all if empty.
        areas: Whether small, medium and large boxes are also evaluated separately.

    Raises:
        DataError: the file cannot be read.
    """
    if not isinstance(detections, list):
        try:
            detections = json.loads(Path(detections).read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"detections {str(detections)!r} cannot be read: {error}.") from error
    with contextlib.redirect_stdout(io.StringIO()):
        if detections:
            found = ground_truth.loadRes(detections)
        else:
            # `loadRes` reads the kind of the results from the first detection.
            found = COCO()
            found.dataset = dict(ground_truth.dataset, annotations=[])
            found.createIndex()
        evaluation = COCOeval(ground_truth, found, "bbox")
        if categories:
            evaluation.params.catIds = list(categories)
        if not areas:
            evaluation.params.areaRng = evaluation.params.areaRng[:1]
            evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
        evaluation.evaluate()
    return evaluation


def coco_metrics(evaluation: COCOeval) -> dict[str, float]:
    """Compute ``mAP``, ``AP50``, ``AP75``, ``AP_s``, ``AP_m``, ``AP_l`` in [0, 1]; -1 if there are no such objects."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats[:6]), strict=True))
