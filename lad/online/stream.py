"""The stream: every frame is served by the student, and now and then the teacher labels one that it learns from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lad.engine.checkpoints import remove_partial_files
from lad.errors import CheckpointError, ConfigError
from lad.online.controller import StrideRules, first_stride, next_stride
from lad.online.detector import FrameDetector
from lad.online.files import DETECTIONS, LOG, STATE, STUDENT, VIDEO, remove_stream
from lad.online.frames import Frames
from lad.online.outputs import Lines, NoLines, VideoParts, draw
from lad.online.process import Learning, TrainingLostError
from lad.online.state import StreamState, Tally, load_student, save_student, without_training
from lad.online.trainer import Outcome

import numpy as np
from mmengine.structures import InstanceData

#: Seconds of a stream in which a teacher that finds nothing is worth a line.
SILENCE = 60.0


@dataclass(frozen=True)
class StreamOptions:
    """What a stream writes, and when.

    Attributes:
        folder: Where.
        save_every: Frames between two states.
        video: Whether to write the annotated video.
        detections: Whether to write the detections of every frame.
        max_frames: Frames to serve at most, earlier parts of a resumed stream included; None for all.
    """

    folder: Path
    save_every: int = 500
    video: bool = True
    detections: bool = False
    max_frames: int | None = None

    def __post_init__(self) -> None:
        if self.save_every < 1 or (self.max_frames is not None and self.max_frames < 1):
            raise ConfigError(
                f"save_every and max_frames must be at least 1, got {self.save_every} and {self.max_frames}."
            )


class OnlineStream:
    """Serves a stream with a student that learns on it.

    What is served is always the student's prediction before it was trained on the frame.

    Args:
        frames: The source.
        student: The student that serves.
        learning: Where it learns; None for a student that does not, for comparison.
        rules: When the teacher is asked.
        student_score: Detections that score less are not served.
        options: What is written.
        report: Called with a line for the user.
        resume: Go on from the state in the folder. Otherwise a stream that is there is replaced: its files are removed.

    Raises:
        CheckpointError: there is no state to resume from, or it does not fit.
        ConfigError: the state is of another stream.
    """

    def __init__(
        self,
        frames: Frames,
        student: FrameDetector,
        learning: Learning | None,
        rules: StrideRules,
        student_score: float,
        options: StreamOptions,
        report: Callable[[str], None],
        resume: bool = False,
    ) -> None:
        self._frames, self._student, self._learning = frames, student, learning
        self._rules, self._student_score, self._options, self._report = rules, student_score, options, report
        self._classes = tuple(student.model.dataset_meta["classes"])
        self._stride = first_stride(rules)
        self._tally = Tally()
        self._frame = 0
        self._silent_since: int | None = None
        self._silence_told = self._save_failed = self._save_due = False
        self._f1: float | None = None
        #: State of a training that a student without one goes on from, and which stays as it is meanwhile.
        self._kept_training: Mapping[str, Any] | None = None
        #: Whether the process of the training ended before the stream did.
        self.lost_training = False
        lengths = [0, 0]
        folder = options.folder
        folder.mkdir(parents=True, exist_ok=True)
        remove_partial_files(folder)
        if resume:
            state = StreamState.load(folder / STATE)
            self._restore(state)
            lengths = [state.log_length, state.detections_length]
        else:
            remove_stream(folder)
        self._log = Lines(folder / LOG, lengths[0])
        self._detections: Lines | NoLines = NoLines(lengths[1])
        if options.detections:
            self._detections = Lines(folder / DETECTIONS, lengths[1])
        self._video = VideoParts(folder / VIDEO, frames.fps, self._frame) if options.video else None

    def _restore(self, state: StreamState) -> None:
        if state.source != self._frames.name and not self._frames.is_live:
            raise ConfigError(
                f"the state in {self._options.folder} is of {state.source}, not of {self._frames.name}: name that one, "
                "or give another --work-dir."
            )
        self._frame, self._stride, self._tally = state.frame, state.stride, state.tally
        self._silent_since, self._silence_told, self._f1 = state.silent_since, state.silence_told, state.f1
        if self._learning is not None:
            self._learning.load_state_dict(state.training)
        else:
            load_student(self._student.model, state.training)
            self._kept_training = state.training

    @property
    def tally(self) -> Tally:
        """Counts and times."""
        return self._tally

    @property
    def status(self) -> str:
        """A line on where the stream is."""
        length = f" of {self._frames.length}" if self._frames.length else ""
        f1 = "?" if self._f1 is None else f"{self._f1:.2f}"
        return (
            f"frame {self._frame}{length}, F1 {f1}, stride {self._stride.length}, "
            f"teacher asked {self._tally.labelled} times"
        )

    def run(
        self, stopped: Callable[[], bool] = lambda: False, progress: Callable[[], Any] = lambda: None
    ) -> None:
        """Serve frames until the stream ends; then save everything.

        Args:
            stopped: Asked after every frame, whether to end there.
            progress: Called after every frame.
        """
        try:
            for image in self._frames.read_from(self._frame) if self._has_room() else ():
                self._serve(image)
                progress()
                if self._frame % self._options.save_every == 0:
                    self._save_due = True
                if self._save_due and self._is_idle():
                    self._save_due = not self._save()
                if stopped() or not self._has_room():
                    break
            else:
                if self._has_room() and (reason := self._frames.ending(self._frame)) is not None:
                    self._say(f"{reason}.")
            self._finish()
        finally:
            if self._video is not None:
                self._video.rotate()
            self._log.close()
            self._detections.close()

    def _has_room(self) -> bool:
        return self._options.max_frames is None or self._frame < self._options.max_frames

    def _is_idle(self) -> bool:
        return self._learning is None or self._learning.is_idle

    def _serve(self, image: np.ndarray) -> None:
        start = time.perf_counter()
        found = self._student.detect(self._student.prepare(image), self._student_score)
        self._tally.student_seconds += time.perf_counter() - start
        frame = self._frame
        self._detections.write(_record(frame, found))
        if self._video is not None:
            self._video.write(frame, draw(image, found, self._classes, self.status))
        self._tally.frames += 1
        self._frame += 1
        if self._learning is not None:
            try:
                if self._learning.is_idle and frame >= self._stride.due:
                    self._learning.submit(frame, image, found)
                outcome = self._learning.poll()
            except TrainingLostError as error:
                self._leave_training(error)
            else:
                if outcome is not None:
                    self._take(outcome)

    def _leave_training(self, error: TrainingLostError) -> None:
        assert self._learning is not None
        self._say(f"{error}; the stream goes on with the last student, which learns no more.")
        self._learning.close()
        self._learning, self.lost_training = None, True

    def _take(self, outcome: Outcome) -> None:
        """Count a labelled frame, log it and choose when the next one is."""
        self._stride = next_stride(self._rules, self._stride, outcome.frame, outcome.f1)
        self._f1 = outcome.before
        tally = self._tally
        tally.labelled += 1
        tally.updates += outcome.updates
        tally.faults += len(outcome.faults)
        tally.held_back += outcome.ending == "held back"
        tally.before += outcome.before
        tally.teacher_seconds += outcome.teacher_seconds
        tally.training_seconds += outcome.training_seconds
        self._log.write(
            dict(
                frame=outcome.frame,
                labels=outcome.labels,
                f1_before=round(outcome.before, 4),
                f1_updated=round(outcome.updated, 4),
                f1=round(outcome.f1, 4),
                updates=outcome.updates,
                ending=outcome.ending,
                stride=self._stride.length,
                loss=None if outcome.loss is None else round(outcome.loss, 4),
                teacher_seconds=round(outcome.teacher_seconds, 4),
                training_seconds=round(outcome.training_seconds, 4),
            )
        )
        for fault in outcome.faults:
            self._say(f"frame {outcome.frame}: a training step was left out: {fault}.")
        self._watch_silence(outcome)

    def _watch_silence(self, outcome: Outcome) -> None:
        if outcome.labels:
            self._silent_since, self._silence_told = None, False
            return
        if self._silent_since is None:
            self._silent_since = outcome.frame
        seconds = (outcome.frame - self._silent_since) / self._frames.fps
        if seconds >= SILENCE and not self._silence_told:
            self._silence_told = True
            self._say(
                f"the teacher has found nothing since frame {self._silent_since} ({seconds:.0f} s): the student serves "
                "on and learns nothing meanwhile."
            )

    def _say(self, message: str) -> None:
        """Tell the user, and log it."""
        self._report(message)
        self._log.write(dict(frame=self._frame, message=message))

    def _training_state(self) -> Mapping[str, Any]:
        if self._learning is not None:
            return self._learning.state_dict()
        return self._kept_training or without_training(self._student.model)

    def _save(self) -> bool:
        """Save the state; returns False where that is to be tried again at once. The stream goes on in any case."""
        if self.lost_training:
            return True  # the last state has a training to go on with, this one would have none
        if self._video is not None:
            self._video.rotate()
        for lines in (self._log, self._detections):
            lines.flush()
        try:
            if not (self._log.is_whole and self._detections.is_whole):
                raise CheckpointError("the log cannot be written")
            StreamState(
                source=self._frames.name,
                frame=self._frame,
                stride=self._stride,
                tally=replace(self._tally),
                training=self._training_state(),
                f1=self._f1,
                silent_since=self._silent_since,
                silence_told=self._silence_told,
                log_length=self._log.length,
                detections_length=self._detections.length,
            ).save(self._options.folder / STATE)
        except TrainingLostError as error:
            self._leave_training(error)
            return False
        except CheckpointError as error:
            if not self._save_failed:
                cause = error.__cause__
                reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error)
                self._report(
                    f"the state of frame {self._frame} cannot be saved ({reason}): the stream goes on, and tries again "
                    f"every {self._options.save_every} frames; make room in {self._options.folder}."
                )
            self._save_failed = True
            return True  # not before the next one is due
        self._save_failed = False
        return True

    def _finish(self) -> None:
        """Wait for the frame that is being trained on, and save everything."""
        while not self._is_idle():
            assert self._learning is not None
            try:
                outcome = self._learning.poll()
            except TrainingLostError as error:
                self._leave_training(error)
                break
            if outcome is not None:
                self._take(outcome)
            else:
                time.sleep(0.01)
        self._save()
        save_student(self._student.model, self._options.folder / STUDENT, self._classes)
        if self._video is not None and (count := self._video.join()) != self._frame:
            self._report(
                f"{self._options.folder / VIDEO} has {count} of {self._frame} frames: the disk was full, or earlier "
                "parts of the stream were served without a video."
            )


def _record(frame: int, found: InstanceData) -> dict[str, Any]:
    return dict(
        frame=frame,
        bboxes=[[round(value, 2) for value in box] for box in found.bboxes.tolist()],
        labels=found.labels.tolist(),
        scores=[round(score, 4) for score in found.scores.tolist()],
    )
