"""Files of detections in the place of a detector that teaches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

from lad.base.capture import Outputs
from lad.datasets.detection_file import Detections, category_names, labels_of, read_detections
from lad.datasets.teacher_detections import AddTeacherDetections, DetectionsOfBatch, detections_of
from lad.errors import ConfigError, UnsupportedError
from lad.networks.frozen import FrozenTeacher
from lad.networks.gives import DETECTIONS
from lad.networks.preprocessing import Renormalisation
from lad.networks.view import TeacherView

from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import OptSampleList, SampleList
from mmengine.structures import InstanceData
from torch import Tensor

#: What an image without an entry in the file is.
Missing = Literal["error", "empty"]
#: What becomes of detections of classes that the training data does not have.
Others = Literal["error", "drop"]


@MODELS.register_module()
class DetectionFile(BaseDetector):
    """Detections of a detector of any package, in the place of that detector.

    Args:
        file: A COCO result file: a list of ``dict(image_id=..., category_id=..., bbox=[left, top, width, height],
            score=...)``, or a COCO annotation file with scores as ``lad label`` writes it. The ids of images are those
            of the training data.
        ann_file: A COCO file whose ``categories`` name the category ids, or
        classes: their names: a list for the ids 1, 2, ..., or a dict by id.
        min_score: Detections below are left out.
        max_per_image: The best so many of an image are kept.
        missing: ``'error'``: every training image must be named in the file. ``'empty'``: an image that is not has no
            detections; result files name no image in which nothing was found.
        other_classes: ``'error'``: the training data must have every class in the file. ``'drop'``: detections of
            others are left out.
        data_preprocessor, init_cfg: As in MMEngine; not used.

    Raises:
        ConfigError: a setting is out of range, or there are no class names.
        DataError: the file is no result file.
    """

    gives = (DETECTIONS,)

    def __init__(
        self,
        file: str,
        ann_file: str | None = None,
        classes: Sequence[str] | Mapping[int, str] | None = None,
        min_score: float = 0.05,
        max_per_image: int = 100,
        missing: Missing = "error",
        other_classes: Others = "error",
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        owner = type(self).__name__
        if not isinstance(file, str):
            raise ConfigError(f"{owner}: file must be the path of a result file, got {file!r:.60}.")
        if not 0 <= min_score <= 1 or max_per_image < 1:
            raise ConfigError(
                f"{owner}: min_score must be from 0 to 1 and max_per_image at least 1, got {min_score} and "
                f"{max_per_image}."
            )
        for name, value, known in (
            ("missing", missing, Missing),
            ("other_classes", other_classes, Others),
        ):
            if value not in get_args(known):
                raise ConfigError(
                    f"{owner}: {name} must be one of {', '.join(get_args(known))}, got {value!r}."
                )
        names = category_names(ann_file, classes, owner)
        self.detections = read_detections(file, names, min_score, max_per_image)
        self.allows_missing = missing == "empty"
        self.drops_others = other_classes == "drop"

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Refused: it is not trained."""
        raise UnsupportedError("DetectionFile has no loss: it teaches, teacher=dict(type='DetectionFile').")

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, **kwargs: Any) -> SampleList:
        """Refused: it knows the images of its file alone."""
        raise UnsupportedError(
            "DetectionFile detects in the images of its file alone, and only in a training."
        )

    def extract_feat(self, batch_inputs: Tensor) -> Any:
        """Refused: it has no features."""
        raise UnsupportedError("DetectionFile has no features.")

    def _forward(self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None) -> Any:
        return self.extract_feat(batch_inputs)


class FileTeacher(FrozenTeacher):
    """Teacher whose detections are in a file and come with each batch; it runs nothing.

    Args:
        model: The file.
        student: The detector whose images its boxes belong to.
        config: Its config.
        name: The teacher's name.
        of_batch: Where the detections of all files are taken from the batch.
    """

    def __init__(
        self,
        model: DetectionFile,
        student: BaseDetector,
        config: dict,
        name: str,
        of_batch: DetectionsOfBatch,
    ) -> None:
        same = Renormalisation(student.data_preprocessor, student.data_preprocessor)
        super().__init__(model, same, None, config)
        self.name = name
        self.of_batch = of_batch
        self.is_attached = False

    @property
    def file(self) -> DetectionFile:
        """The file and its settings."""
        return self.model

    def attach(self, classes: Sequence[str] | None) -> AddTeacherDetections:
        """Map the file's classes to those of the training data.

        Args:
            classes: The training data's.

        Returns:
            The transform that adds the detections to the training data's annotations.

        Raises:
            ConfigError: the training data does not have the file's classes.
        """
        labels = labels_of(self.detections, classes, self.file.drops_others, f"teacher {self.name}")
        first = self.of_batch.add(self.name, self.detections, labels)
        self.is_attached = True
        return AddTeacherDetections(self.detections, labels, first)

    @property
    def detections(self) -> Detections:
        """All detections of the file."""
        return self.file.detections

    def check_ready(self) -> None:
        """See :meth:`FrozenTeacher.check_ready`."""
        if not self.is_attached:
            raise ConfigError(
                f"teacher {self.name}: nothing adds the detections of {self.detections.path} to the training data: add "
                "default_hooks=dict(detection_files=dict(type='DetectionFileHook')), as lad train does."
            )

    def view(
        self, inputs: Tensor, data_samples: SampleList, modules: Iterable[str], shared: bool = False
    ) -> TeacherView:
        """The detections of one batch."""
        return FileView(self, inputs, data_samples, modules, shared)

    def run(self, inputs: Tensor, data_samples: SampleList, modules: Iterable[str]) -> Outputs:
        """Nothing: no method reads modules of a file."""
        return Outputs()


class FileView(TeacherView):
    """Detections of a file for one batch."""

    _teacher: FileTeacher

    @cached_property
    def detections(self) -> list[InstanceData]:
        """See :meth:`TeacherView.detections`."""
        found = []
        for sample in self._data_samples:
            own = detections_of(sample, self._teacher.name, self._inputs.device)
            if own is None:
                raise ConfigError(
                    f"teacher {self._teacher.name}: the images have not passed the detector's data preprocessor, which "
                    "takes the detections from them."
                )
            found.append(own)
        return found


def build_detection_file(
    spec: dict, student: BaseDetector, role: str, of_batch: DetectionsOfBatch
) -> FileTeacher:
    """Build the teacher of ``teacher=dict(type='DetectionFile', file=...)``.

    Args:
        spec: The config.
        student: The detector whose images the file's boxes belong to.
        role: The teacher's name.
        of_batch: Where its detections are taken from a batch.

    Raises:
        ConfigError: settings of a network are given, or those of the file are wrong.
        DataError: the file is no result file.
    """
    spec = dict(spec)
    for key in ("checkpoint", "speed", "cache"):
        if spec.pop(key, None):
            raise ConfigError(f"{role}: a DetectionFile runs no network: leave out {key}.")
    try:
        model = MODELS.build(spec)
    except TypeError as error:
        raise ConfigError(f"{role}: DetectionFile: {error}.") from error
    return FileTeacher(model, student, spec, role, of_batch)
