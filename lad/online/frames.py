"""Frames of videos, cameras, network streams and folders of images, one after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from lad.datasets.image_folder import image_files
from lad.errors import ConfigError, nearest

import cv2
import mmcv
import numpy as np

#: Frames a second of a stream that does not tell.
DEFAULT_FPS = 25.0


class Frames(ABC):
    """A source of frames: (H, W, 3) arrays of uint8 in the order BGR, of any size, which may change.

    Attributes:
        name: For messages.
        fps: Frames a second.
        length: Number of frames, as far as it is known.
        is_live: Whether frames that nobody reads are lost.
    """

    name: str
    fps: float = DEFAULT_FPS
    length: int | None = None
    is_live: bool = False

    @abstractmethod
    def read_from(self, frame: int) -> Iterator[np.ndarray]:
        """Iterate over the frames from a number on; a live source goes on where it is.

        The iterator ends where nothing more can be read: :meth:`ending` says why.
        """

    @abstractmethod
    def ending(self, read: int) -> str | None:
        """Why a source ended early after so many frames; None where it came to its end."""


def _captured(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        found, image = capture.read()
        if not found or image is None:
            return
        yield _three_channels(image)


def _three_channels(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image


def _rate(fps: float) -> float:
    # 0 or NaN where a stream does not tell; clocks of 90 kHz where it tells something else.
    return fps if 0 < fps <= 1000 else DEFAULT_FPS


class VideoFile(Frames):
    """A video file."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._reader = mmcv.VideoReader(path)
        self.fps = _rate(self._reader.fps)
        # Negative or absurd in damaged files.
        self.length = self._reader.frame_cnt if 0 < self._reader.frame_cnt < 2**31 else None

    def read_from(self, frame: int) -> Iterator[np.ndarray]:
        """Iterate over the frames from a number on."""
        capture = self._reader.vcap
        # Decoded from the start: a jump may land on a neighbouring frame, depending on the file.
        for _ in range(frame):
            if not capture.grab():
                return
        yield from _captured(capture)

    def ending(self, read: int) -> str | None:
        """Why it ended early."""
        if not read:
            return f"{self.name} has no frame that can be decoded"
        if self.length is not None and read < self.length:
            return f"{self.name} ends after {read} of {self.length} frames: what follows cannot be decoded"
        return None


class Stream(Frames):
    """A camera by its number, or a stream by its address (RTSP, HTTP), through ``cv2.VideoCapture``."""

    is_live = True

    def __init__(self, source: int | str) -> None:
        self.name = f"camera {source}" if isinstance(source, int) else source
        self._capture = cv2.VideoCapture(source)
        self.fps = _rate(self._capture.get(cv2.CAP_PROP_FPS))

    def read_from(self, frame: int) -> Iterator[np.ndarray]:
        """Iterate over the frames as they come."""
        yield from _captured(self._capture)

    def ending(self, read: int) -> str | None:
        """Why it ended."""
        return f"{self.name} ended" if read else f"{self.name} cannot be opened, or sends nothing"


class ImageFolder(Frames):
    """The images of a folder in the order of their names, as frames; what cannot be decoded is passed over."""

    def __init__(self, folder: str) -> None:
        self.name = folder
        self._files = [Path(folder) / file for file in image_files(folder)]
        self._bad: list[Path] = []
        self.length = len(self._files)

    def read_from(self, frame: int) -> Iterator[np.ndarray]:
        """Iterate over the images from a number on, where those that cannot be decoded do not count."""
        number = 0
        for file in self._files:
            image = mmcv.imread(str(file))
            if image is None:
                self._bad.append(file)
                continue
            if number >= frame:
                yield _three_channels(image)
            number += 1

    def ending(self, read: int) -> str | None:
        """Which images could not be decoded."""
        if not self._bad:
            return None
        return f"{len(self._bad)} images of {self.name} cannot be decoded, {self._bad[0].name} for one"


def open_frames(source: str) -> Frames:
    """Open a video file, a folder of images, a stream by its address, or a camera by its number.

    Raises:
        ConfigError: there is no such file.
        DataError: there is no image in a folder.
    """
    path = Path(source)
    if "://" in source:
        return Stream(source)
    if path.is_dir():
        return ImageFolder(source)
    if path.is_file():
        return VideoFile(source)
    if source.isdigit():
        return Stream(int(source))
    if path.exists():  # a device, such as /dev/video0
        return Stream(source)
    known = [str(file) for file in path.parent.glob("*")] if path.parent.is_dir() else []
    raise ConfigError(
        f"there is no video {source!r}{nearest(source, known)}: give a file, a folder of images, an address or the "
        "number of a camera."
    )
