"""What happens to a labelled frame: the teacher's labels, the student's updates, and which weights are served then."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from lad.engine.session import TrainingSession
from lad.errors import CheckpointError
from lad.online.accuracy import agreement
from lad.online.detector import FrameDetector, PreparedFrame, as_labels, training_batch
from lad.online.object_weights import ObjectWeighting
from lad.online.settings import OnlineSettings
from lad.online.state import served_weights

import numpy as np
import torch
from mmengine.structures import InstanceData

#: ``trained``: the trained weights are served from now on. ``held back``: they were worse on the frame than those that
#: are served, which stay; training goes on with them. ``unchanged``: the student knew the frame already.
#: ``no objects``: the teacher found none, or none that is larger than a pixel in the student's input. Nothing is
#: trained on: without objects the student would learn that there are none.
Ending = Literal["trained", "held back", "unchanged", "no objects"]
#: Frames in a row that are held back, after which training begins again with the weights that are served.
MAX_HELD_BACK = 8


@dataclass(frozen=True)
class Outcome:
    """A labelled frame.

    Attributes:
        frame: Its number.
        labels: Number of the teacher's boxes.
        before: F1 of what was served against them, before any update.
        updated: F1 of the trained weights after the updates; ``before`` where there was no training.
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
    """The student that is trained, and its teacher.

    Weights that are trained and weights that are served are two things: a few steps on one frame may make a student
    worse before it becomes better.

    Args:
        student: The student that is trained; not the module that serves.
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
        #: State of the training when its weights were last served; None where they are those of now.
        self._good: dict[str, Any] | None = None
        self._earlier: dict[str, Any] | None = None
        self._held_back = 0

    def learn(self, frame: int, image: np.ndarray, detections: InstanceData) -> Outcome:
        """Label a frame, and train the student on it until it knows it.

        Args:
            frame: Its number.
            image: (H, W, 3).
            detections: What was served for it.
        """
        start = time.perf_counter()
        found = self.teacher.detect(self.teacher.prepare(image), self._settings.teacher_score)
        labels = as_labels(found, self._classes)
        labelled = time.perf_counter()
        before = agreement(detections, labels).f1
        untrained = Outcome(
            frame, len(labels), before, before, 0, "unchanged", teacher_seconds=labelled - start
        )
        if len(labels) and not self._settings.rules.wants_update(before, 0):
            return untrained
        prepared = self.student.prepare(image)
        batch = training_batch(prepared, labels)
        # Not the teacher's labels: what is too small in the student's input is not in the batch.
        if not any(len(sample.gt_instances) for sample in batch["data_samples"]):
            return replace(untrained, ending="no objects")
        f1, updates, faults, loss = self._train(prepared, batch, labels, before)
        ending: Ending
        if f1 >= before and not (self._good is None and not updates):
            ending, self._good, self._held_back = "trained", None, 0
        elif self._good is None and not updates:
            ending = "unchanged"  # every step was left out
        else:
            ending = "held back"
            self._hold_back()
        seconds = time.perf_counter() - labelled
        return Outcome(
            frame, len(labels), before, f1, updates, ending, tuple(faults), loss, labelled - start, seconds
        )

    def _train(
        self, prepared: PreparedFrame, batch: Mapping[str, Any], labels: InstanceData, before: float
    ) -> tuple[float, int, list[str], float | None]:
        """Train on a frame; returns F1 after it, the number of updates, faults and the last loss."""
        rules, score = self._settings.rules, self._settings.student_score
        boxes = [sample.gt_instances.bboxes for sample in batch["data_samples"]]
        f1, updates, faults, loss = before, 0, [], None
        if self._good is None:
            self._earlier = copy.deepcopy(self._session.state_dict())
        else:
            f1 = agreement(self.student.detect(prepared, score), labels).f1
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
            f1 = agreement(self.student.detect(prepared, score), labels).f1
        return f1, updates, faults, loss

    def _hold_back(self) -> None:
        good = self._good or self._earlier
        assert good is not None
        self._good, self._held_back = good, self._held_back + 1
        if self._held_back >= MAX_HELD_BACK:
            self._session.load_state_dict(dict(good, steps=self._session.steps))
            self._good, self._held_back = None, 0

    def served_weights(self) -> Mapping[str, torch.Tensor]:
        """State dict of the student that is to serve; the session's own tensors, or older ones."""
        return served_weights(dict(session=self._session.state_dict(), good=self._good))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next frames depend on; changes with the student."""
        return dict(session=self._session.state_dict(), good=self._good, held_back=self._held_back)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            CheckpointError: it is of another student or optimizer.
        """
        if not {"session", "good", "held_back"} <= set(state):
            raise CheckpointError(
                "the state of a training does not fit this one: it is of a stream without training; go on with "
                "--frozen, or begin anew with --force."
            )
        self._session.load_state_dict(state["session"])
        self._good, self._held_back = copy.deepcopy(state["good"]), state["held_back"]
