"""What happens to a labelled frame: the teacher's labels, the student's updates, and which weights are served then."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lad.engine.session import TrainingSession
from lad.online.accuracy import agreement
from lad.online.detector import FrameDetector, as_labels, training_batch
from lad.online.object_weights import ObjectWeighting
from lad.online.settings import OnlineSettings

import numpy as np
import torch
from mmengine.structures import InstanceData

#: ``trained``: the updated weights are served. ``rolled back``: they were worse on the frame, and the student is as it
#: was. ``unchanged``: it knew the frame already. ``no objects``: the teacher found none, and nothing is trained on.
Ending = Literal["trained", "rolled back", "unchanged", "no objects"]


@dataclass(frozen=True)
class Outcome:
    """A labelled frame.

    Attributes:
        frame: Its number.
        labels: Number of the teacher's boxes.
        before: F1 of the student's detections against them, before any update.
        updated: F1 after the updates; ``before`` where there was none.
        updates: Training steps that were made.
        ending: What became of the weights.
        faults: Why a step was left out, for each that was.
        loss: Of the last step; None where there was none.
        teacher_seconds, training_seconds: The time they took.
    """

    frame: int
    labels: int
    before: float
    updated: float
    updates: int
    ending: Ending
    faults: tuple[str, ...] = ()
    loss: float | None = None
    teacher_seconds: float = 0.0
    training_seconds: float = 0.0

    @property
    def f1(self) -> float:
        """F1 on the frame of the weights that are served from now on."""
        return self.updated if self.ending == "trained" else self.before


class Trainer:
    """The student that learns, and its teacher.

    Args:
        student: The student; its weights change.
        teacher: The teacher.
        classes: The student's label of each of the teacher's classes.
        session: Of the student's training.
        settings: Of the distillation.
    """

    def __init__(
        self,
        student: FrameDetector,
        teacher: FrameDetector,
        classes: torch.Tensor,
        session: TrainingSession,
        settings: OnlineSettings,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self._classes = classes
        self._session = session
        self._settings = settings
        self._weighting = ObjectWeighting(student.model, settings.object_weight, settings.enlarged)

    @property
    def unweighted_heads(self) -> list[str]:
        """Class names of the student's heads that train without heavier objects."""
        return self._weighting.unsupported

    def learn(self, frame: int, image: np.ndarray, detections: InstanceData) -> Outcome:
        """Label a frame, and train the student on it until it knows it.

        The student that comes out is never worse on the frame than the one that went in: where it became worse,
        weights and optimizer are put back.

        Args:
            frame: Its number.
            image: (H, W, 3).
            detections: What the student, with its weights of now, finds in it.
        """
        rules = self._settings.rules
        start = time.perf_counter()
        found = self.teacher.detect(self.teacher.prepare(image), self._settings.teacher_score)
        labels = as_labels(found, self._classes)
        labelled = time.perf_counter()
        before = f1 = agreement(detections, labels).f1
        if not len(labels):
            return Outcome(frame, 0, before, f1, 0, "no objects", teacher_seconds=labelled - start)
        updates, faults, loss = 0, [], None
        if rules.wants_update(f1, updates):
            prepared = self.student.prepare(image)
            batch = training_batch(prepared, labels)
            boxes = [sample.gt_instances.bboxes for sample in batch["data_samples"]]
            earlier = copy.deepcopy(self._session.state_dict())
            while rules.wants_update(f1, updates):
                with self._weighting.applied(boxes):
                    result = self._session.step(batch)
                if result.fault:
                    # The same frame would give the same.
                    faults.append(result.fault)
                    break
                updates += 1
                # Once a step on one frame: the stream waits for its F1 anyway.
                loss = float(result.losses["loss"].detach())
                f1 = agreement(self.student.detect(prepared, self._settings.student_score), labels).f1
            if f1 < before:
                self._session.load_state_dict(dict(earlier, steps=self._session.steps))
        ending: Ending = "rolled back" if f1 < before else "trained" if updates else "unchanged"
        seconds = time.perf_counter() - labelled
        return Outcome(
            frame, len(labels), before, f1, updates, ending, tuple(faults), loss, labelled - start, seconds
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next frames depend on; changes with the student."""
        return self._session.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            CheckpointError: it is of another student or optimizer.
        """
        self._session.load_state_dict(state)
