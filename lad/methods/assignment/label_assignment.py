"""Label-assignment distillation (LAD): the student trains on the teacher's label assignment."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, get_args

from lad.errors import ConfigError, UnsupportedError
from lad.exchange.seams import Mode, find_seam
from lad.exchange.seams.base import Seam
from lad.exchange.seams.detr import DETRSeam
from lad.methods.assignment.inherited_queries import InheritedQueries
from lad.methods.base import DistillationMethod, Step
from lad.networks.batch_memory import BatchMemory, precision_of, settings_of_images
from lad.networks.cache import TeacherCache, check_settings, hash_of
from lad.networks.routes import Teacher

from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS


@MODELS.register_module()
class LabelAssignmentDistillation(DistillationMethod):
    """Train the student by its own losses on the positives that the teacher's assignment chooses.

    Nguyen et al., "Improving Object Detection by Label Assignment Distillation", WACV 2022, arXiv 2108.10520,
    Sec. 3.2. It adds no loss term: a dynamic assignment is a function of a network's predictions, and here it is
    evaluated on the teacher's. Priors, candidates and the assigner's settings are the student's. Which heads
    this works for, and what each exchanges: :data:`lad.exchange.seams.SEAMS`.

    Args:
        mode: ``'hard'``: the teacher's matches, with qualities (IoU targets, TOOD's alignment) from the student's own
            predictions, as in the paper. ``'soft'``: the teacher's qualities too (not for PAA).
        cache: Keep what the teacher computes on disk: ``dict(dir=FOLDER, max_gb=8.0, ...)``, see
            :class:`lad.networks.cache.TeacherCache`.
            Images whose pixels and boxes were seen before cost no teacher forward. Folders can be shared by runs: what
            a teacher computed is kept under a hash of its weights and of all settings that matter. What it computed
            for an image in one batch stands for the image in batches that pad it otherwise, unless
            ``same_padding=True``.
        inherit_queries: For DETRs (DeformableDETR, DINO), whose queries correspond only if the student's are its
            teacher's in the beginning: True: copied, and trained with the student. ``'frozen'``: copied and left as
            they are. See :class:`lad.methods.assignment.inherited_queries.InheritedQueries`.
        init_cfg: As in MMEngine.
    """

    teacher_modules: tuple[str, ...] = ("bbox_head",)
    steers = ("bbox_head",)
    needs_teacher_first = True
    ensembles = False  # the mean of two networks' predictions is no network's assignment

    def __init__(
        self,
        mode: Mode = "hard",
        cache: dict | None = None,
        inherit_queries: bool | Literal["frozen"] = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if mode not in get_args(Mode):
            raise ConfigError(f"LabelAssignmentDistillation: mode must be 'hard' or 'soft', got {mode!r}.")
        if cache is not None:
            check_settings("LabelAssignmentDistillation", cache, others=["same_padding"])
        if not isinstance(inherit_queries, bool) and inherit_queries != "frozen":
            raise ConfigError(
                "LabelAssignmentDistillation: inherit_queries must be True, 'frozen' or False, got "
                f"{inherit_queries!r}."
            )
        self.mode = mode
        self.inherit_queries = inherit_queries
        self.queries: InheritedQueries | None = None
        self.cache: TeacherCache | None = None
        self._cache_settings = cache
        self.needs_fingerprints = cache is not None
        if cache is not None:
            self.needs_frozen = "its cache keeps what a teacher computed in earlier steps: leave out `cache`"
        elif inherit_queries:
            self.needs_frozen = "the student inherits trained queries before the first step"

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Find where the two heads decide; refuse those that cannot share a decision."""
        if self.inherit_queries:
            self.queries = InheritedQueries(student, teacher, frozen=self.inherit_queries == "frozen")
            self.teacher_modules = self.queries.teacher_modules
            self.seam: Seam = DETRSeam(inherited=True)
            self.seam.check(student.bbox_head, teacher.model.bbox_head, self.mode)
        else:
            self.seam = find_seam(student, teacher.model, self.mode)
        if self._cache_settings is not None:
            head = student.bbox_head
            self.seam.check_memory(head)
            settings = dict(self._cache_settings)
            self._same_padding = settings.pop("same_padding", False)
            # Everything that a record depends on and that is not in the image itself.
            images = settings_of_images("LabelAssignmentDistillation", student)
            decision = (head.prior_generator, head.train_cfg, head.topk)
            name = hash_of(teacher.model, teacher.config, teacher.speed, images, decision)
            self.cache = TeacherCache(Path(settings.pop("dir")) / name, **settings)

    def check_without_labels(self, student: BaseDetector) -> None:
        """There is no own loss to steer."""
        raise UnsupportedError(
            "student_loss=False: LabelAssignmentDistillation steers the student's own loss, so it has nothing to do; "
            "leave it out, or train with labels."
        )

    def steer(self, step: Step) -> AbstractContextManager:
        """The student's own loss, with the teacher's positives."""
        if self.queries is not None:
            return self.queries.replay(step, self.seam, self.mode)
        memory = None
        if self.cache is not None:
            memory = BatchMemory(self.cache, step.data_samples, self._same_padding, precision_of(step.inputs))
        return self.seam.replay(
            step.student.bbox_head,
            step.teacher.model.bbox_head,
            lambda images: step.teacher.outputs_of(images, "bbox_head"),
            step.data_samples,
            self.mode,
            memory,
        )
