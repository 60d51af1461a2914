"""Average precision of rare, common and frequent classes, by their number of training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lad.datasets.coco_file import AnnotationTable, read_coco
from lad.datasets.tail import FREQUENCIES, ClassCount, Frequency, FrequencyBounds, class_counts
from lad.errors import ConfigError, DataError

import numpy as np


def read_class_counts(path: str | Path) -> dict[str, ClassCount]:
    """Count the classes of an annotation file, by name.

    Raises:
        DataError: it is no COCO file.
    """
    content, problems = read_coco(path)
    table = None if content is None else AnnotationTable.of(content)
    if content is None or table is None:
        reason = str(problems[0]) if problems else f"{path}: its entries are malformed"
        raise DataError(f"{reason}; `lad check --json` lists all.")
    return {count.name: count for count in class_counts(table)}


def precision_by_frequency(
    precision: np.ndarray,
    names: Sequence[str],
    counts: Mapping[str, ClassCount],
    bounds: FrequencyBounds,
) -> dict[Frequency, float]:
    """Mean AP over the rare, the common and the frequent classes.

    Args:
        precision: (T, R, K, A, M) of ``COCOeval.eval``: IoU thresholds, recalls, classes, areas and numbers of
            detections; -1 where a class has no object. The first area (all) and the last number of detections count.
        names: The K classes.
        counts: Of the training file, by name; a class that is not in it is rare.
        bounds: Of the frequencies.

    Returns:
        The mean by frequency; -1, as COCO has it, where no class has objects.
    """
    if precision.shape[2] != len(names):
        raise ValueError(f"precision is of {precision.shape[2]} classes, and {len(names)} names are given")
    groups = [bounds.frequency(counts[name].images if name in counts else 0) for name in names]
    means = {}
    for frequency in FREQUENCIES:
        chosen = precision[:, :, [group == frequency for group in groups], 0, -1]
        # The mean of the classes' means: each has all recalls at all thresholds, or none.
        valid = chosen[chosen > -1]
        means[frequency] = float(valid.mean()) if valid.size else -1.0
    return means


def parse_frequencies(frequencies: Mapping | None) -> tuple[Path, FrequencyBounds] | None:
    """The training file and bounds of a metric's option ``frequencies``; None without the option.

    Args:
        frequencies: ``ann_file``, the annotation file that is trained on, and optionally ``rare`` and ``common``.

    Raises:
        ConfigError: other keys or values, or no such file.
    """
    if frequencies is None:
        return None
    keys = {"ann_file", "rare", "common"}
    if not isinstance(frequencies, Mapping) or not isinstance(frequencies.get("ann_file"), str):
        raise ConfigError(
            "CocoMetric: frequencies must be like dict(ann_file='annotations/train.json', rare=10, common=100), got "
            f"{frequencies!r:.80}."
        )
    if not set(frequencies) <= keys:
        raise ConfigError(
            f"CocoMetric: frequencies knows {', '.join(sorted(keys))}, got {sorted(frequencies)}."
        )
    path = Path(frequencies["ann_file"])
    if not path.is_file():
        raise ConfigError(f"CocoMetric: frequencies: there is no annotation file {path}; set its ann_file.")
    bounds = {key: frequencies[key] for key in ("rare", "common") if key in frequencies}
    return path, FrequencyBounds(**bounds)
