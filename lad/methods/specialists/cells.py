"""Queries of a dense head: an image, whose candidates are the cells with the student's highest logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from lad.assignment.priors import prior_grid
from lad.errors import UnsupportedError
from lad.exchange.labels import LabelReader, reading_labels
from lad.heads.dense import class_logits, level_sizes
from lad.methods.base import Step
from lad.methods.response.dense import (
    check_dense_heads,
    check_labels_known,
    check_same_count,
    labels_of,
)
from lad.methods.specialists.classes import KnownClasses
from lad.methods.specialists.queries import Queries, QuerySource
from lad.networks.routes import SingleTeacher

import torch
from mmdet.models.detectors import BaseDetector
from mmengine.logging import print_log
from torch import Tensor


class DenseQueries(QuerySource):
    """Each image's cells, that is pairs of a prior and a class, with the student's highest logits.

    Args:
        owner: The method, for messages.
        student: The learner.
        teachers: By name.
        known: Which of the student's classes each teacher knows.
        candidates: K, how many cells of each image; those in its padding are none.

    Raises:
        UnsupportedError: heads do not correspond cell by cell.
    """

    student_modules = ("bbox_head",)

    def __init__(
        self,
        owner: str,
        student: BaseDetector,
        teachers: Mapping[str, SingleTeacher],
        known: KnownClasses,
        candidates: int,
    ) -> None:
        super().__init__()
        check_dense(owner, student, teachers)
        self.owner = owner
        self.known = known
        self.candidates = candidates
        self.num_groups = student.bbox_head.prior_generator.num_levels
        self._capped = False

    def modules_of_teacher(self, name: str) -> tuple[str, ...]:
        """The dense head."""
        return ("bbox_head",)

    def observe(self, step: Step) -> AbstractContextManager[LabelReader]:
        """Record the labels of the student's own loss."""
        return reading_labels(step.student.bbox_head)

    def queries(self, step: Step, observed: LabelReader, gates: Tensor) -> Iterator[Queries]:
        """One query for each image; see :meth:`QuerySource.queries`."""
        head, outputs = step.student.bbox_head, step.outputs["bbox_head"]
        logits = class_logits(head, outputs)
        num_classes = logits.shape[2]
        cells = logits.flatten(1)
        grid = prior_grid(head.prior_generator, level_sizes(outputs[0]), logits.device)
        inside = grid.inside([sample.metainfo for sample in step.data_samples], allowed_border=-1)
        # What lies in the padding of a smaller image is no candidate: it depends on the other images of the batch.
        open_cells = logits.detach().masked_fill(~inside[:, :, None], -torch.inf).flatten(1)
        chosen = open_cells.topk(self._num_candidates(cells.shape[1]), dim=1, sorted=False).indices
        priors, classes = chosen // num_classes, chosen % num_classes
        taught = []
        # Their heads have other numbers of classes.
        for index, view in zip(self.known.index, step.teachers.values(), strict=True):
            [output] = view.target("bbox_head")
            scores = class_logits(view.model.bbox_head, output)
            check_same_count(self.owner, logits.shape[1], scores.shape[1])
            channel = priors * scores.shape[2] + index[classes]
            taught.append(scores.flatten(1).gather(1, channel).float())
        labels = labels_of(head, outputs, observed)
        levels = grid.level[priors]
        # Of an image with fewer cells than candidates some lie in the padding all the same.
        known = self.known.known[:, classes].transpose(0, 1) & inside.gather(1, priors)[:, None]
        yield Queries(
            student=cells.gather(1, chosen),
            teachers=torch.stack(taught, dim=1),
            gates=gates[:, levels, classes].transpose(0, 1),
            known=known,
            classes=classes,
            targets=(labels.labels.gather(1, priors) == classes).float(),
            labelled=labels.counts.gather(1, priors).float(),
            weight=torch.ones(len(cells), device=cells.device),
        )

    def _num_candidates(self, available: int) -> int:
        if available < self.candidates and not self._capped:
            self._capped = True
            print_log(
                f"{self.owner}: an image of this size has {available} cells (priors times classes), fewer than "
                f"candidates={self.candidates}: all of them are compared.",
                logger="current",
            )
        return min(available, self.candidates)


def check_dense(owner: str, student: BaseDetector, teachers: Mapping[str, SingleTeacher]) -> None:
    """Refuse a student and teachers whose dense heads do not correspond cell by cell.

    Raises:
        UnsupportedError: names the teacher and what differs.
    """
    own: Any = getattr(student, "bbox_head", None)
    for name, teacher in teachers.items():
        heads = [own, getattr(teacher.model, "bbox_head", None)]
        check_dense_heads(f"{owner} (teacher {name})", heads, (student, teacher.model))
    if not own.use_sigmoid_cls:
        raise UnsupportedError(
            f"{owner}: the student's {type(own).__name__} has a softmax over the classes of a prior; it works with "
            "dense heads whose classes are sigmoids, and with softmax RoI heads: set use_sigmoid in loss_cls."
        )
    check_labels_known(owner, own)
