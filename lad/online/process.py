"""Teacher and training in this process, where they hold up the stream, or in one of their own, where they do not."""

from __future__ import annotations

import io
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize
from typing import Any

from lad.compat.safe_loading import load_safely
from lad.engine.checkpoints import torch_bytes
from lad.errors import LadError
from lad.online.building import Networks, build_trainer
from lad.online.detector import FrameDetector
from lad.online.settings import OnlineSettings
from lad.online.trainer import Outcome, Trainer

import numpy as np
import torch
import torch.multiprocessing as multiprocessing
from mmengine.structures import InstanceData
from torch import Tensor

#: Seconds that a process is given to end by itself.
PATIENCE = 5.0


class TrainingLostError(LadError):
    """The process of teacher and training has ended by itself."""


class Learning(ABC):
    """Where frames are labelled and trained on.

    Attributes:
        is_idle: Whether the last frame is done, so that another can be given.
    """

    is_idle: bool = True

    @abstractmethod
    def submit(self, frame: int, image: np.ndarray, detections: InstanceData) -> None:
        """Give a frame; see :meth:`lad.online.trainer.Trainer.learn`."""

    @abstractmethod
    def poll(self) -> Outcome | None:
        """The outcome of the frame that was given, once; None before. Its weights are then the serving student's.

        Raises:
            TrainingLostError: there will be none.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """State of the training, while idle."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the serving student has its weights then."""

    def close(self) -> None:  # noqa: B027 -- most have nothing to do
        """Leave nothing behind."""


class LearningHere(Learning):
    """Labels and trains when a frame is given; the stream waits.

    Args:
        trainer: The training.
        student: The serving student, which gets the weights.
    """

    def __init__(self, trainer: Trainer, student: FrameDetector) -> None:
        self._trainer = trainer
        self._student = student.model
        self._outcome: Outcome | None = None

    def submit(self, frame: int, image: np.ndarray, detections: InstanceData) -> None:
        """Label the frame and train on it."""
        self._outcome = self._trainer.learn(frame, image, detections)
        if self._outcome.ending == "trained":
            self._student.load_state_dict(self._trainer.served_weights())

    def poll(self) -> Outcome | None:
        """The outcome, once."""
        outcome, self._outcome = self._outcome, None
        return outcome

    def state_dict(self) -> dict[str, Any]:
        """State of the training."""
        return self._trainer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._trainer.load_state_dict(state)
        self._student.load_state_dict(self._trainer.served_weights())


class LearningApart(Learning):
    """Labels and trains in a process of its own, which gives its weights back through shared memory.

    The process ends with this one, however this one ends: it reads requests from a pipe, whose other end the system
    closes. It ignores stop signals, which a service sends to all processes, since its state is wanted then.

    Args:
        networks: Student and teacher, which it builds for itself.
        settings: Of the distillation.
        student: The serving student, which gets the weights.

    Raises:
        LadError: student, teacher or training cannot be built; the message is the one of the process.
    """

    def __init__(self, networks: Networks, settings: OnlineSettings, student: FrameDetector) -> None:
        self._student = student.model
        self._shared = {
            name: value.detach().to("cpu", copy=True).share_memory_()
            for name, value in self._student.state_dict().items()
        }
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_run, args=(theirs, networks, settings, self._shared), daemon=True
        )
        self._process.start()
        theirs.close()  # or its end would not be seen
        # Before Python waits for such processes at its own end.
        self._end = Finalize(None, _end, (self._connection, self._process), exitpriority=1)
        try:
            self._receive()
        except BaseException:
            self.close()
            raise

    def submit(self, frame: int, image: np.ndarray, detections: InstanceData) -> None:
        """Send the frame."""
        self.is_idle = False
        self._send(("learn", frame, image, _arrays(detections)))

    def poll(self) -> Outcome | None:
        """The outcome, if it has come."""
        if self.is_idle or not self._connection.poll():
            return None
        outcome = self._receive()
        self.is_idle = True
        if outcome.ending == "trained":
            self._take_weights()
        return outcome

    def state_dict(self) -> dict[str, Any]:
        """Ask for the state of the training."""
        self._send(("state",))
        return load_safely(io.BytesIO(self._receive()))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Send a state."""
        self._send(("load", torch_bytes(state)))
        self._receive()
        self._take_weights()

    def close(self) -> None:
        """End the process; what it is busy with is lost."""
        self._end()

    def _take_weights(self) -> None:
        # The process writes only while it has a request.
        self._student.load_state_dict(self._shared)

    def _send(self, request: tuple) -> None:
        try:
            self._connection.send(request)
        except OSError as error:
            raise self._gone() from error

    def _receive(self) -> Any:
        try:
            kind, value = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if kind == "error":
            raise LadError(value)
        return value

    def _gone(self) -> TrainingLostError:
        self._process.join(PATIENCE)
        return TrainingLostError(
            f"the process of teacher and training has ended (exit code {self._process.exitcode}): memory may be short"
        )


def _end(connection: Connection, process: SpawnProcess) -> None:
    connection.close()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()


def _run(
    connection: Connection, networks: Networks, settings: OnlineSettings, shared: dict[str, Tensor]
) -> None:
    """The process of teacher and training."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        try:
            trainer = build_trainer(networks, settings)
        except LadError as error:
            return connection.send(("error", str(error)))
        connection.send(("ready", None))
        while True:
            request = connection.recv()
            try:
                answer = _answer(trainer, shared, request)
            except LadError as error:
                answer = ("error", str(error))
            connection.send(answer)
    except (EOFError, OSError):  # the stream has ended
        return


def _answer(trainer: Trainer, shared: dict[str, Tensor], request: tuple) -> tuple[str, Any]:
    kind, *values = request
    if kind == "learn":
        frame, image, detections = values
        outcome = trainer.learn(frame, image, _instances(detections))
        if outcome.ending == "trained":
            _share_weights(trainer, shared)
        return "outcome", outcome
    if kind == "state":
        return "state", torch_bytes(trainer.state_dict())
    trainer.load_state_dict(load_safely(io.BytesIO(values[0])))
    _share_weights(trainer, shared)
    return "loaded", None


def _share_weights(trainer: Trainer, shared: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in trainer.served_weights().items():
            shared[name].copy_(value)


def _arrays(instances: InstanceData) -> dict[str, np.ndarray]:
    """As arrays: tensors would be sent by file descriptors, of which a process has few."""
    return {name: getattr(instances, name).numpy() for name in ("bboxes", "labels", "scores")}


def _instances(arrays: Mapping[str, np.ndarray]) -> InstanceData:
    return InstanceData(**{name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
