"""Files of detections that teach: their detections join the training data's annotations before the first step."""

from __future__ import annotations

from typing import Any

from lad.datasets.coverage import innermost
from lad.datasets.detection_file import check_images
from lad.datasets.teacher_detections import add_to_pipelines
from lad.detectors.inspection import frozen_teachers
from lad.engine.loops import load_anew
from lad.engine.model import detector_of
from lad.errors import ConfigError, DataError
from lad.networks.foreign.detection_file import FileTeacher

from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class DetectionFileHook(Hook):
    """Lets the detections of ``teacher=dict(type='DetectionFile')`` pass the training data's pipeline.

    They are added to each image's annotations as ignored ones before its pipeline begins, so they are cropped, flipped,
    resized and mixed as annotations are, and are taken from the batch behind the data preprocessor; see
    :mod:`lad.datasets.teacher_detections`. Detectors without such a teacher are passed over.

    Raises:
        ConfigError: the pipeline loads no annotations or copies them to other images, or the data has other classes.
        DataError: the file does not name the training images.
    """

    # Before TeacherCheckHook looks at the data.
    priority = "HIGH"

    def before_train(self, runner: Runner) -> None:
        """Check each file against the training data, and put its detections before the pipeline."""
        for name, teacher in frozen_teachers(detector_of(runner)).items():
            if isinstance(teacher, FileTeacher) and not teacher.is_attached:
                _attach(runner, name, teacher)


def _attach(runner: Runner, name: str, teacher: FileTeacher) -> None:
    owner = f"teacher {name}"
    dataset = runner.train_loop.dataloader.dataset
    parts = list(innermost(dataset))
    if not parts or any(not hasattr(part, "pipeline") for part in parts):
        raise ConfigError(
            f"{owner}: a result file is joined with data sets of MMDetection's kind, got {type(dataset).__name__}."
        )
    check_images(
        teacher.detections,
        [image for part in parts for image in _ids(part)],
        teacher.file.allows_missing,
        owner,
    )
    classes = next((found for part in parts if (found := part.metainfo.get("classes"))), None)
    add_to_pipelines(dataset, teacher.attach(classes), owner)
    load_anew(runner.train_loop)
    known = len(teacher.detections)
    runner.logger.info(
        f"Teacher {name}: {known} detections of {teacher.detections.path} join the training data."
    )
    if not known:
        raise DataError(
            f"{owner}: no detection of {teacher.detections.path} is left: lower min_score, or look at the file."
        )


def _ids(dataset: BaseDataset) -> list[Any]:
    """The ids of a data set's images."""
    infos = (dataset.get_data_info(number) for number in range(len(dataset)))
    return [info.get("img_id") for info in infos]
