"""The state of a stream, from which it goes on as if it had not been interrupted, and the student that it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lad.compat.safe_loading import load_safely
from lad.engine.checkpoints import write_torch
from lad.errors import CheckpointError
from lad.networks.fit import compare_state
from lad.networks.verified_checkpoint import refuse_misfit
from lad.online.controller import Stride

from mmdet.models.detectors import BaseDetector
from torch import Tensor

#: Of the file's content; changed when the content changes.
FORMAT = 1


@dataclass
class Tally:
    """Counts and times of a stream.

    Attributes:
        frames: Frames that were served.
        labelled: Frames that the teacher labelled.
        updates: Training steps.
        held_back: Labelled frames after which the trained weights were not served.
        faults: Training steps that were left out.
        before: Sum over labelled frames of the F1 before any update.
        student_seconds, teacher_seconds, training_seconds: The time they took.
    """

    frames: int = 0
    labelled: int = 0
    updates: int = 0
    held_back: int = 0
    faults: int = 0
    before: float = 0.0
    student_seconds: float = 0.0
    teacher_seconds: float = 0.0
    training_seconds: float = 0.0

    @property
    def mean_f1(self) -> float:
        """Mean F1 over labelled frames of what was served, before the student was trained on them."""
        return self.before / self.labelled if self.labelled else 0.0


@dataclass(frozen=True)
class StreamState:
    """State of a stream between two frames.

    Attributes:
        source: Name of the stream.
        frame: Number of the next frame.
        stride: When the teacher is asked next.
        tally: Counts and times.
        training: State of the training, with the student's weights (:func:`served_weights`).
        f1: Before any update, on the last labelled frame; None before the first.
        silent_since: Number of the frame since which the teacher has found nothing; None where it has.
        silence_told: Whether that was reported.
        log_length, detections_length: Bytes of the files that belong to the frames before.
    """

    source: str
    frame: int
    stride: Stride
    tally: Tally
    training: Mapping[str, Any]
    f1: float | None
    silent_since: int | None
    silence_told: bool
    log_length: int
    detections_length: int

    def save(self, path: Path) -> None:
        """Write the state to a file, atomically.

        Raises:
            CheckpointError: it cannot be written; the file is as it was.
        """
        content = {one.name: getattr(self, one.name) for one in fields(self)}
        content.update(format=FORMAT, stride=asdict(self.stride), tally=asdict(self.tally))
        _write(path, content)

    @classmethod
    def load(cls, path: Path) -> StreamState:
        """Read a state.

        Raises:
            CheckpointError: there is none, or it is damaged or of something else.
        """
        try:
            content = load_safely(path, map_location="cpu")
        except FileNotFoundError as error:
            raise CheckpointError(
                f"there is no {path}: no stream can be resumed; leave out --resume."
            ) from error
        try:
            if content.pop("format") != FORMAT:
                raise CheckpointError(f"{path} is of another version: begin anew with --force.")
            content.update(stride=Stride(**content["stride"]), tally=Tally(**content["tally"]))
            return cls(**content)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is no state of a stream: begin anew with --force.") from error


def served_weights(training: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The weights of the student that serves, in the state of a training or of a stream without one.

    Args:
        training: Of :meth:`lad.online.trainer.Trainer.state_dict`, or :func:`without_training`.

    Raises:
        CheckpointError: it is neither.
    """
    found: Any = training
    if isinstance(training, Mapping):
        found = training.get("good") or training.get("session") or training
    weights = found.get("state_dict") if isinstance(found, Mapping) else None
    if not isinstance(weights, Mapping):
        raise CheckpointError(
            "the state of the stream holds no weights of a student: begin anew with --force."
        )
    return weights


def without_training(student: BaseDetector) -> dict[str, Any]:
    """State of the training of a stream without one: the student that serves."""
    return dict(state_dict=student.state_dict())


def load_student(student: BaseDetector, training: Mapping[str, Any]) -> None:
    """Give a student the weights of :func:`served_weights`.

    Raises:
        CheckpointError: there are none, or they are of another detector.
    """
    weights = served_weights(training)
    refuse_misfit(
        compare_state(student, weights),
        "the state of the stream",
        "name its student's config, or begin anew with --force.",
    )
    student.load_state_dict(weights, strict=False)


def save_student(model: BaseDetector, path: Path, classes: Sequence[str]) -> None:
    """Write a plain checkpoint, which ``mmdet.apis.init_detector`` loads.

    Raises:
        CheckpointError: it cannot be written.
    """
    _write(path, dict(meta=dict(dataset_meta=dict(classes=tuple(classes))), state_dict=model.state_dict()))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    try:
        write_torch(path, content)
    except CheckpointError as error:
        cause = error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error)
        raise CheckpointError(
            f"cannot write {path}: {reason}; make room, then go on with --resume."
        ) from cause
