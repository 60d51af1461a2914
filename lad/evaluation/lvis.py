"""LVIS metric of MMDetection by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lad.errors import ConfigError, DataError, nearest
from lad.evaluation.faster import load_faster_coco_eval

from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.fileio import get_local_path
from mmengine.logging import MMLogger

#: Detections of an image that count, of all classes together.
MAX_DETECTIONS = 300
#: Names of the metrics, as MMDetection's, by faster-coco-eval's.
NAMES = dict(
    AP_all="AP",
    AP_50="AP50",
    AP_75="AP75",
    AP_small="APs",
    AP_medium="APm",
    AP_large="APl",
    APr="APr",
    APc="APc",
    APf="APf",
)


# Under MMDetection's own name: its LVIS configs change nothing. Its metric needs the package lvis, which does not run
# on numpy 2.
@METRICS.register_module(name="LVISMetric", force=True)
class LVISMetric(CocoMetric):
    """AP of LVIS (Gupta et al., CVPR 2019, arXiv 1908.03195), by the package faster-coco-eval.

    An image of LVIS is annotated for some classes only: those that it has (exhaustively, or not), and those that were
    found not to be on it. Detections of other classes on it are dropped, and wrong ones of classes that are not
    annotated exhaustively are ignored. The 300 detections of an image with the highest scores count. The names are
    MMDetection's: ``bbox_AP``, ``bbox_AP50``, ``bbox_APr`` (rare classes), ``bbox_APc`` (common), ``bbox_APf``
    (frequent) and so on.

    Args:
        ann_file: A file of LVIS v1. On a plain COCO file, whose images do not name the classes that they lack, all
            detections of such classes would be dropped, and the AP be too high: ``CocoMetric(frequencies=...)`` has AP
            of rare, common and frequent classes for those.
        metric: ``'bbox'``, ``'segm'`` or a list of them.
        kwargs: As for MMDetection's ``LVISMetric``; ``classwise``, ``proposal_nums`` and ``iou_thrs`` are not known.

    Raises:
        ConfigError: faster-coco-eval is not installed, or a setting is not known.
        DataError: the file is none of LVIS.
    """

    default_prefix = "lvis"

    def __init__(self, ann_file: str, metric: str | Sequence[str] = "bbox", **kwargs: Any) -> None:
        metrics = [metric] if isinstance(metric, str) else list(metric)
        if unknown := [name for name in metrics if name not in ("bbox", "segm")]:
            raise ConfigError(f"LVISMetric: metric must be 'bbox', 'segm' or both, got {unknown[0]!r}.")
        if others := {"classwise", "proposal_nums", "iou_thrs", "use_mp_eval"} & set(kwargs):
            raise ConfigError(f"LVISMetric: {min(others)} is no setting of it; take it out.")
        # Imported here so that a missing package is reported before the first epoch, not after it.
        self._package = load_faster_coco_eval("LVISMetric")
        super().__init__(ann_file=None, metric=metrics, **kwargs)
        with get_local_path(ann_file, backend_args=self.backend_args) as path:
            self._annotations = read_lvis(path, ann_file)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Record the detections of a batch; the annotations are those of the file."""
        samples = [dict(sample, instances=[]) for sample in data_samples]
        super().process(data_batch, samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics of all images."""
        _, found = zip(*results, strict=True)
        # What results2json writes for each label.
        self.cat_ids = self._category_ids()
        with tempfile.TemporaryDirectory() as folder:
            files = self.results2json(found, self.outfile_prefix or f"{folder}/results")
            if self.format_only:
                return {}
            detections = {kind: json.loads(Path(files[kind]).read_text()) for kind in self.metrics}
        metrics: dict[str, float] = {}
        for kind in self.metrics:
            values = lvis_precision(self._package, self._annotations, detections[kind], kind)
            # Three digits, as MMDetection's.
            metrics |= {f"{kind}_{name}": round(value, 3) for name, value in values.items()}
        told = " ".join(f"{name}: {value:.3f}" for name, value in metrics.items())
        MMLogger.get_current_instance().info(told)
        return metrics

    def _category_ids(self) -> list[int]:
        """Id of the category of each class of the data set, by its name."""
        known = {category["name"]: category["id"] for category in self._annotations["categories"]}
        classes = (self.dataset_meta or {}).get("classes") or tuple(known)
        if unknown := [name for name in classes if name not in known]:
            raise DataError(
                f"LVISMetric: the annotation file has no category {unknown[0]!r}{nearest(unknown[0], known)}; give the "
                "data set the classes of the file (metainfo)."
            )
        return [known[name] for name in classes]


def lvis_precision(
    package: Any, annotations: dict, detections: Sequence[Mapping], kind: str = "bbox"
) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl, APr, APc and APf of detections; -1 where there are no such objects.

    Args:
        package: The module ``faster_coco_eval``.
        annotations: Of :func:`read_lvis`.
        detections: COCO results.
        kind: ``'bbox'`` or ``'segm'``.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        # The evaluation writes into what it is given.
        truth = package.COCO(json.loads(json.dumps(annotations)))
        found = truth.loadRes(best_detections(detections))
        evaluation = package.COCOeval_faster(
            truth, found, kind, lvis_style=True, print_function=lambda *_: None
        )
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        values = evaluation.stats_as_dict
    return {name: float(values[theirs]) for theirs, name in NAMES.items()}


def best_detections(detections: Sequence[Mapping], count: int = MAX_DETECTIONS) -> list[dict]:
    """The detections of each image with the highest scores, of all classes together."""
    by_image: dict[Any, list[Mapping]] = defaultdict(list)
    for detection in detections:
        by_image[detection["image_id"]].append(detection)
    return [
        dict(detection)
        for own in by_image.values()
        for detection in sorted(own, key=lambda detection: -detection["score"])[:count]
    ]


def read_lvis(path: str | Path, name: str) -> dict:
    """Read an annotation file of LVIS.

    Args:
        path: Where it is.
        name: What it is called, for messages.

    Raises:
        DataError: it cannot be read, or lacks what LVIS's files have beside COCO's.
    """
    try:
        content = json.loads(Path(path).read_text())
        images, categories = content["images"], content["categories"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"LVISMetric: {name} cannot be read as annotations of LVIS: {error!r}.") from error
    for kind, entries, key in (
        ("image", images, "neg_category_ids"),
        ("image", images, "not_exhaustive_category_ids"),
        ("category", categories, "frequency"),
    ):
        lacking = next((entry for entry in entries if key not in entry), None)
        if lacking is not None:
            raise DataError(
                f"LVISMetric: {name} is no annotation file of LVIS: {kind} {lacking.get('id')} has no {key!r}, so that "
                "detections would be dropped and the AP be too high; take CocoMetric, and "
                "frequencies=dict(ann_file=...) for AP of rare, common and frequent classes."
            )
    return content
