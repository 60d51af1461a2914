"""Detections of a file on their way through a data pipeline: as ignored instances, whose boxes every transform moves.

A transform that crops, flips, resizes or mixes images moves annotated boxes, and the flags and labels beside them. So
detections travel as annotations that are ignored, and their label is the number of their row in the file: whatever
remains of an image, or of several that were mixed, tells which detections remain and where they are. Behind the data
preprocessor they are taken out of the ignored instances again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lad.datasets.coverage import innermost
from lad.datasets.detection_file import Detections
from lad.errors import ConfigError

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

#: Labels from here on are numbers of rows; no data set has so many classes.
FIRST_ROW = 1 << 32
#: Field of a data sample that holds the detections of all files.
TAUGHT = "taught_instances"
#: Key of its metadata: the number of instances that annotations ignore, and which detections are whose.
SHARES = "taught_shares"
#: Transforms that copy what is annotated from one image to another: copies of detections are no objects.
COPYING = ("CopyPaste",)
#: Transforms that read annotations, by the end of their names.
LOADING = ("LoadAnnotations", "LoadPanopticAnnotations")


class AddTeacherDetections(BaseTransform):
    """Adds the detections of a file to an image's annotations, before those are loaded.

    Args:
        detections: The file's.
        labels: (n,) the label of each detection in the data set; those of -1 stay away.
        first: Number of the file's first row among those of all files.
    """

    def __init__(self, detections: Detections, labels: np.ndarray, first: int = 0) -> None:
        self.detections = detections
        self.known = labels >= 0
        self.first = first

    def transform(self, results: dict) -> dict:
        """Append an ignored instance for each detection of the image."""
        start, stop = self.detections.rows.get(str(results.get("img_id")), (0, 0))
        size = results.get("width", np.inf), results.get("height", np.inf)
        # Boxes outside of the image are left out, as MMDetection leaves out such annotations.
        boxes = self.detections.boxes[start:stop]
        inside = self.known[start:stop] & (boxes[:, 2:] > 0).all(axis=1) & (boxes[:, :2] < size).all(axis=1)
        # Transforms reject boxes that reach beyond the image (Albumentations), or keep them so.
        clipped = np.clip(boxes, 0, [*size, *size])
        added = [
            self._instance(start + row, clipped[row].tolist()) for row in np.flatnonzero(inside).tolist()
        ]
        results["instances"] = [*results.get("instances", ()), *added]
        return results

    def _instance(self, row: int, box: list[float]) -> dict[str, Any]:
        x1, y1, x2, y2 = box
        return dict(
            bbox=box,
            bbox_label=FIRST_ROW + self.first + row,
            ignore_flag=1,
            # For pipelines that load masks.
            mask=[[x1, y1, x2, y1, x2, y2, x1, y2]],
        )


def add_to_pipelines(dataset: Any, transform: AddTeacherDetections, owner: str) -> None:
    """Put a transform before the pipelines of a data set's innermost data sets.

    Args:
        dataset: The built data set; wrappers and concatenations are looked into.
        transform: The transform.
        owner: For messages.

    Raises:
        ConfigError: a pipeline loads no annotations, or copies them to other images.
    """
    for one in innermost(dataset):
        names = [type(step).__name__ for step in one.pipeline.transforms]
        if not any(name.endswith(LOADING) for name in names):
            raise ConfigError(
                f"{owner}: detections pass the pipeline as annotations do, and that of {one.ann_file or 'the data'} "
                "loads none: add dict(type='LoadAnnotations', with_bbox=True), also where images have no labels."
            )
        _refuse_copying(names, owner)
        one.pipeline.transforms.insert(0, transform)
    pending = [dataset]
    while pending:
        wrapper = pending.pop()
        _refuse_copying([type(step).__name__ for step in _steps_of(wrapper)], owner)
        pending += [
            *getattr(wrapper, "datasets", ()),
            *([wrapper.dataset] if hasattr(wrapper, "dataset") else []),
        ]


def _steps_of(wrapper: Any) -> Sequence[Any]:
    """The transforms of a wrapper that mixes images."""
    steps = getattr(wrapper, "pipeline", None) or ()
    return getattr(steps, "transforms", steps)


def _refuse_copying(names: Sequence[str], owner: str) -> None:
    for name in names:
        if name in COPYING:
            raise ConfigError(
                f"{owner}: {name} copies annotated objects to other images, which would copy detections: leave it out "
                "of the pipeline."
            )


@dataclass(frozen=True)
class Share:
    """The detections of one file in an image of a batch.

    Attributes:
        start: Number of the first of them among the image's.
        scores: Their scores, best first, on the host.
    """

    start: int
    scores: tuple[float, ...]


class DetectionsOfBatch:
    """Hooks of a data preprocessor that take the detections of files out of the ignored instances of a batch.

    Before it, the labels are still on the host: there each detection gets its class and its score, and all are sorted
    by file and score behind what is ignored by annotation. Behind it, when batch augmentations have moved all boxes,
    the two are taken apart, by numbers that are known: nothing waits for the device.
    """

    def __init__(self) -> None:
        self._scores = np.zeros(0, dtype=np.float32)
        self._labels = np.zeros(0, dtype=np.int64)
        self._files: list[tuple[str, int]] = []

    def __deepcopy__(self, memo: dict) -> DetectionsOfBatch:
        return self  # an EMA copy sees the same files

    def register(self, preprocessor: nn.Module) -> None:
        """Register the hooks."""
        preprocessor.register_forward_pre_hook(self.before, with_kwargs=True)
        preprocessor.register_forward_hook(self.behind)

    def add(self, name: str, detections: Detections, labels: np.ndarray) -> int:
        """Make the detections of a teacher known; returns the number of its first row.

        Args:
            name: The teacher's name.
            detections: Its file's.
            labels: Their labels in the data set.
        """
        first = len(self._scores)
        self._files.append((name, first))
        self._scores = np.concatenate([self._scores, detections.scores])
        self._labels = np.concatenate([self._labels, labels])
        return first

    def before(self, preprocessor: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Give detections their classes, and sort them behind what is ignored by annotation."""
        data = args[0] if args else kwargs["data"]
        samples = data.get("data_samples") if isinstance(data, Mapping) else None
        if not isinstance(samples, (list, tuple)):
            return None
        data = dict(data, data_samples=[self.sort(sample) for sample in samples])
        return ((data, *args[1:]), kwargs) if args else (args, dict(kwargs, data=data))

    def sort(self, sample: DetDataSample) -> DetDataSample:
        """A copy of a sample, as the pipeline made it, whose detections stand behind what annotations ignore."""
        sample = sample.new()  # the batch itself may be looked at again
        ignored = sample.get("ignored_instances")
        labels = (
            ignored.labels.numpy() if ignored is not None and "labels" in ignored else np.zeros(0, np.int64)
        )
        rows = labels - FIRST_ROW
        own = np.flatnonzero(rows < 0)
        taught = _with_area(ignored, np.flatnonzero(rows >= 0))
        shares = {}
        found = rows[taught]
        firsts = [first for _, first in self._files]
        source = np.searchsorted(firsts, found, side="right") - 1
        scores = self._scores[found] if len(found) else np.zeros(0, np.float32)
        order = np.lexsort((-scores, source))
        taught, source, scores = taught[order], source[order], scores[order]
        for number, (name, _) in enumerate(self._files):
            its = np.flatnonzero(source == number)
            shares[name] = Share(int(its[0]) if len(its) else 0, tuple(scores[its].tolist()))
        if len(own) < len(rows):
            new = _taken(ignored, np.concatenate([own, taught]))
            new.labels[len(own) :] = torch.from_numpy(self._labels[found[order]])
            sample.ignored_instances = new
        sample.set_metainfo({SHARES: (len(own), shares)})
        return sample

    def behind(self, preprocessor: nn.Module, args: tuple, output: Any) -> None:
        """Take the detections out of the ignored instances."""
        samples = output.get("data_samples") if isinstance(output, Mapping) else None
        for sample in samples if isinstance(samples, (list, tuple)) else ():
            own, _ = sample.metainfo.get(SHARES, (0, {}))
            ignored = sample.get("ignored_instances")
            if ignored is None or "labels" not in ignored or len(ignored) == own:
                continue
            sample.set_field(InstanceData(bboxes=ignored.bboxes[own:], labels=ignored.labels[own:]), TAUGHT)
            sample.ignored_instances = ignored[:own]


def _with_area(instances: InstanceData | None, rows: np.ndarray) -> np.ndarray:
    """Of some rows those whose boxes have an area: of what a transform clipped away nothing is left to learn."""
    if instances is None or not len(rows):
        return rows
    boxes = getattr(instances.bboxes, "tensor", instances.bboxes).numpy()[rows]
    return rows[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]


def _taken(instances: InstanceData, order: np.ndarray) -> InstanceData:
    """Instances in another order."""
    index = torch.from_numpy(order)
    return InstanceData(
        **{
            name: value[index] if isinstance(value, Tensor) or hasattr(value, "tensor") else value[order]
            for name, value in instances.items()
        }
    )


def detections_of(sample: DetDataSample, name: str, device: torch.device) -> InstanceData | None:
    """Boxes (k, 4) in pixels of the batch's images, labels and scores of a teacher's detections, best first.

    The scores are on the host.

    Args:
        sample: An image of a batch, behind the data preprocessor.
        name: The teacher's name.
        device: That of the batch.

    Returns:
        None if the image has not passed :class:`DetectionsOfBatch`.
    """
    if SHARES not in sample.metainfo:
        return None
    share: Share = sample.metainfo[SHARES][1].get(name, Share(0, ()))
    if not share.scores:
        boxes, labels = torch.zeros(0, 4, device=device), torch.zeros(0, dtype=torch.long, device=device)
        return InstanceData(bboxes=boxes, labels=labels, scores=torch.zeros(0))
    taught = sample.get(TAUGHT)
    part = slice(share.start, share.start + len(share.scores))
    return InstanceData(
        bboxes=taught.bboxes[part], labels=taught.labels[part], scores=torch.tensor(share.scores)
    )
