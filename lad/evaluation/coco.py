"""COCO metric of MMDetection with a choice of backend."""

from __future__ import annotations

import functools
import importlib
from contextlib import nullcontext
from typing import Any, Literal, get_args

from lad.compat import coco_evaluation_by
from lad.errors import ConfigError

import numpy as np
from mmdet.evaluation import CocoMetric as _CocoMetric
from mmdet.registry import METRICS
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
    try:
        package = importlib.import_module("faster_coco_eval")
    except ImportError as error:
        raise ConfigError(
            "CocoMetric: backend='faster-coco-eval' needs the package: pip install faster-coco-eval."
        ) from error
    return type("FasterCOCOeval", (package.COCOeval_faster,), dict(summarize=COCOeval.summarize))


# Under MMDetection's own name: a config changes nothing but `backend`.
@METRICS.register_module(name="CocoMetric", force=True)
class CocoMetric(_CocoMetric):
    """``CocoMetric`` of MMDetection with pycocotools or, faster and with equal results, faster-coco-eval.

    Args:
        args, kwargs: As for MMDetection's ``CocoMetric``.
        backend: ``'pycocotools'`` (MMDetection's own way) or ``'faster-coco-eval'``, which must be installed
            (``pip install faster-coco-eval``). The metric ``'proposal_fast'`` uses neither.

    Raises:
        ConfigError: ``backend`` is unknown, not installed, or set beside ``use_mp_eval``.
    """

    #: The IoU thresholds of the mAP.
    iou_thrs: np.ndarray

    def __init__(self, *args: Any, backend: Backend = "pycocotools", **kwargs: Any) -> None:
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
        self.backend = backend
        # The summary compares the thresholds with 0.5. MMDetection keeps a list, with which numpy 2 raises an error.
        self.iou_thrs = np.atleast_1d(self.iou_thrs)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics with the evaluator of the backend."""
        with nullcontext() if self._evaluator is None else coco_evaluation_by(self._evaluator):
            return super().compute_metrics(results)
