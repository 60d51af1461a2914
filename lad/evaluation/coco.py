"""COCO metric of MMDetection with a choice of backend."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

from lad.compat import coco_evaluation_by, coco_results_of_nothing
from lad.datasets.tail import ClassCount, FrequencyBounds
from lad.errors import ConfigError
from lad.evaluation.faster import load_faster_coco_eval
from lad.evaluation.frequencies import parse_frequencies, precision_by_frequency, read_class_counts

import numpy as np
from mmdet.evaluation import CocoMetric as _CocoMetric
from mmdet.registry import METRICS
from mmengine.logging import MMLogger
from pycocotools.cocoeval import COCOeval

Backend = Literal["pycocotools", "faster-coco-eval"]


@functools.cache
def faster_evaluator() -> type:
    """Create the evaluator class of the package faster-coco-eval with pycocotools' summary.

    Matching and accumulation are faster-coco-eval's. The summary is pycocotools' own: its twelve numbers, in its order
    and with its exceptions (an mAP is that of ``proposal_nums`` 100, and -1 where 100 is not among them), are what
    MMDetection's metric reads.

    Raises:
        ConfigError: the package is not installed.
    """
    package = load_faster_coco_eval("CocoMetric: backend='faster-coco-eval'")
    return type("FasterCOCOeval", (package.COCOeval_faster,), dict(summarize=COCOeval.summarize))


# Under MMDetection's own name: a config changes nothing but `backend`.
@METRICS.register_module(name="CocoMetric", force=True)
class CocoMetric(_CocoMetric):
    """``CocoMetric`` of MMDetection with pycocotools or, faster and with equal results, faster-coco-eval.

    Args:
        args, kwargs: As for MMDetection's ``CocoMetric``.
        backend: ``'pycocotools'`` (MMDetection's own way) or ``'faster-coco-eval'``, which must be installed
            (``pip install faster-coco-eval``). The metric ``'proposal_fast'`` uses neither.
        frequencies: Report the AP of rare, common and frequent classes too, as ``bbox_AP_rare`` and so on:
            ``dict(ann_file=...)`` with the file that is trained on, and optionally the largest numbers of its images
            that a rare (``rare=10``) and a common class (``common=100``) is in. Any COCO file serves; the detections
            and the mAP are those of COCO's evaluation, unlike ``LVISMetric``'s.

    Raises:
        ConfigError: ``backend`` is unknown, not installed, or set beside ``use_mp_eval``; ``frequencies`` are
            malformed, or set beside it.
    """

    #: The IoU thresholds of the mAP.
    iou_thrs: np.ndarray

    def __init__(
        self,
        *args: Any,
        backend: Backend = "pycocotools",
        frequencies: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if backend not in get_args(Backend):
            raise ConfigError(
                f"CocoMetric: backend must be 'pycocotools' or 'faster-coco-eval', got {backend!r}."
            )
        # Imported here so that a missing package is reported before the first epoch, not after it.
        self._evaluator = faster_evaluator() if backend == "faster-coco-eval" else None
        super().__init__(*args, **kwargs)
        if self._evaluator is not None and self.use_mp_eval:
            raise ConfigError(
                "CocoMetric: use_mp_eval is pycocotools in several processes; take out use_mp_eval or "
                "backend='faster-coco-eval'."
            )
        self._frequencies = parse_frequencies(frequencies)
        if self._frequencies is not None and self.use_mp_eval:
            raise ConfigError(
                "CocoMetric: frequencies are not computed with use_mp_eval; take out one of them."
            )
        self._counts: dict[str, ClassCount] | None = None
        self.backend = backend
        # The summary compares the thresholds with 0.5. MMDetection keeps a list, with which numpy 2 raises an error.
        self.iou_thrs = np.atleast_1d(self.iou_thrs)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics with the evaluator of the backend; they are 0 where nothing was detected."""
        evaluator, precisions = self._evaluator, dict[str, np.ndarray]()
        if self._frequencies is not None:
            evaluator = _recording(evaluator or COCOeval, precisions)
        by = nullcontext() if evaluator is None else coco_evaluation_by(evaluator)
        with coco_results_of_nothing(), by:
            metrics = super().compute_metrics(results)
        if not any(len(found["scores"]) for _, found in results):
            MMLogger.get_current_instance().warning(f"Nothing was detected in {len(results)} images.")
        if self._frequencies is None:
            return metrics
        return metrics | self._by_frequency(precisions, *self._frequencies)

    def _by_frequency(
        self, precisions: dict[str, np.ndarray], path: Path, bounds: FrequencyBounds
    ) -> dict[str, float]:
        if self._counts is None:
            self._counts = read_class_counts(path)
        names = [category["name"] for category in self._coco_api.loadCats(self.cat_ids)]
        found: dict[str, float] = {}
        for kind, precision in precisions.items():
            by_frequency = precision_by_frequency(precision, names, self._counts, bounds)
            # Three digits, as MMDetection's.
            found |= {f"{kind}_AP_{frequency}": round(value, 3) for frequency, value in by_frequency.items()}
        told = " ".join(f"{name}: {value:.3f}" for name, value in found.items())
        MMLogger.get_current_instance().info(told)
        return found


def _recording(evaluator: type, precisions: dict[str, np.ndarray]) -> type:
    """Subclass of an evaluator that keeps the precisions it accumulates, by its kind (``'bbox'``, ``'segm'``)."""

    def accumulate(self: Any, *args: Any, **kwargs: Any) -> None:
        evaluator.accumulate(self, *args, **kwargs)  # type: ignore[attr-defined]
        if self.params.useCats:
            precisions[self.params.iouType] = self.eval["precision"]

    return type(evaluator.__name__, (evaluator,), dict(accumulate=accumulate))
