"""A detector on single frames: its config's test pipeline, its detections, and training batches of labelled frames."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lad.base.config import kind_of
from lad.base.modes import evaluating
from lad.datasets.configured import datasets_of
from lad.errors import ConfigError, UnsupportedError
from lad.online.accuracy import above

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.structures import InstanceData

#: Metadata that place an image in its frame.
META_KEYS = ("img_id", "ori_shape", "img_shape", "scale_factor", "pad_shape")


@dataclass(frozen=True)
class PreparedFrame:
    """A frame as a detector takes it.

    Attributes:
        inputs: (3, H, W) uint8, resized and perhaps padded.
        sample: Metadata.
    """

    inputs: torch.Tensor
    sample: DetDataSample


class FramePipeline:
    """The test pipeline of a config, on arrays instead of files.

    Args:
        cfg: Of the detector.
        role: Of the detector, for messages.

    Raises:
        ConfigError: the config has no test pipeline.
    """

    def __init__(self, cfg: Config, role: str) -> None:
        datasets = list(datasets_of((cfg.get("test_dataloader") or {}).get("dataset")))
        if not datasets or not datasets[0].get("pipeline"):
            raise ConfigError(
                f"the config of the {role} has no test_dataloader.dataset.pipeline: it cannot detect on images."
            )
        steps: list[dict] = []
        for step in copy.deepcopy(datasets[0]["pipeline"]):
            kind = str(kind_of(step))
            if kind.startswith("Load"):
                continue  # images from files, annotations, proposals
            if kind == "PackDetInputs":
                step["meta_keys"] = tuple(dict.fromkeys([*step.get("meta_keys", ()), *META_KEYS]))
                step["meta_keys"] = tuple(key for key in step["meta_keys"] if key != "img_path")
            steps.append(step)
        self._pipeline = Compose([dict(type="mmdet.LoadImageFromNDArray"), *steps])

    def __call__(self, image: np.ndarray) -> PreparedFrame:
        """Prepare a frame (H, W, 3)."""
        packed = self._pipeline(dict(img=image, img_id=0))
        return PreparedFrame(packed["inputs"], packed["data_samples"])


class FrameDetector:
    """A detector and its pipeline.

    Args:
        model: The detector, on its device.
        pipeline: Of its config.
    """

    def __init__(self, model: BaseDetector, pipeline: FramePipeline) -> None:
        self.model = model
        self.pipeline = pipeline

    def prepare(self, image: np.ndarray) -> PreparedFrame:
        """Run the pipeline on a frame."""
        return self.pipeline(image)

    def detect(self, frame: PreparedFrame, min_score: float = 0.0) -> InstanceData:
        """Detections in pixels of the original frame, on the host: ``bboxes``, ``scores``, ``labels``."""
        with torch.no_grad(), evaluating(self.model):
            batch = dict(inputs=[frame.inputs], data_samples=[copy.copy(frame.sample)])
            (sample,) = self.model.test_step(batch)
        return above(sample.pred_instances, min_score)


def training_batch(frame: PreparedFrame, labels: InstanceData) -> dict[str, Any]:
    """A batch of one frame, with boxes that are given in pixels of the original frame.

    Boxes that are no wider or no higher than a pixel in the network's input are left out, so that there may be none.

    Raises:
        UnsupportedError: the pipeline shifts images, as centred padding does, so that boxes cannot follow.
    """
    sample = copy.deepcopy(frame.sample)
    check_no_shift(sample)
    factor = torch.tensor(tuple(sample.scale_factor) * 2)
    height, width = sample.img_shape[:2]
    bboxes = labels.bboxes * factor
    bboxes[:, 0::2].clamp_(0, width)
    bboxes[:, 1::2].clamp_(0, height)
    # What was outside of the frame has no area.
    kept = ((bboxes[:, 2:] - bboxes[:, :2]) > 1).all(dim=1)
    sample.gt_instances = InstanceData(bboxes=bboxes[kept], labels=labels.labels[kept])
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return dict(inputs=[frame.inputs], data_samples=[sample])


def check_no_shift(sample: DetDataSample) -> None:
    """Refuse a pipeline whose images do not begin at the frame's upper left corner.

    Raises:
        UnsupportedError: names what the pipeline must do.
    """
    wanted = [
        round(size * scale)
        for size, scale in zip(sample.ori_shape, reversed(sample.scale_factor), strict=True)
    ]
    padding = sample.get("pad_param")
    if padding is not None and bool(np.any(np.asarray(padding)[[0, 2]])):
        raise UnsupportedError(
            "the test pipeline pads on the left or above: labels cannot be placed; pad on the right and below."
        )
    if any(actual < size - 1 for actual, size in zip(sample.img_shape[:2], wanted, strict=True)):
        raise UnsupportedError(
            "the test pipeline crops the frame: labels cannot be placed; use a pipeline that resizes and pads."
        )


def class_map(student: Sequence[str], teacher: Sequence[str]) -> torch.Tensor:
    """(T,) the student's label of each of the teacher's classes, by name; -1 for what the student does not know.

    Raises:
        ConfigError: the teacher does not know a class of the student, which would unlearn it.
    """
    missing = [name for name in student if name not in teacher]
    if missing:
        raise ConfigError(
            f"the teacher does not know the student's class {missing[0]!r}, which the student would unlearn: take a "
            "teacher that knows all of them, or name the classes of both alike."
        )
    return torch.tensor([student.index(name) if name in student else -1 for name in teacher])


def as_labels(found: InstanceData, classes: torch.Tensor) -> InstanceData:
    """Detections of a teacher in the student's classes; those of other classes are left out.

    Args:
        found: On the host.
        classes: Of :func:`class_map`.
    """
    labels = classes[found.labels]
    known = labels >= 0
    return InstanceData(bboxes=found.bboxes[known], labels=labels[known], scores=found.scores[known])
