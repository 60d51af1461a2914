"""What a stream leaves behind while it goes on: a log, detections, an annotated video. A full disk stops none of it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.structures import InstanceData

#: BGR of Okabe and Ito's colours, told apart by colour-blind readers too.
_COLOURS = ((178, 114, 0), (0, 94, 213), (115, 158, 0), (167, 121, 204), (0, 159, 230), (233, 180, 86))
#: The parts of a video while they are joined.
_WHOLE = ".whole.mp4"


class Lines:
    """A file of JSON lines that is appended to, and cut back to a known length where a stream is resumed.

    What cannot be written, because the disk is full, is kept and written with a later line.

    Args:
        path: The file; its folder is there.
        length: Bytes of it that count, if it is so long; what follows is cut off. 0 begins anew.
    """

    def __init__(self, path: Path, length: int = 0) -> None:
        self.path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 -- open as long as the stream
        self._written = min(length, os.fstat(self._file.fileno()).st_size)
        self._file.truncate(self._written)
        self._kept = b""

    @property
    def length(self) -> int:
        """Bytes, with those that are still kept."""
        return self._written + len(self._kept)

    @property
    def is_whole(self) -> bool:
        """Whether everything is in the file."""
        return not self._kept

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line, or keep it."""
        self._kept += json.dumps(record).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Try to write what was kept."""
        try:
            while self._kept:
                count = self._file.write(self._kept)
                self._written += count or 0
                self._kept = self._kept[count or 0 :]
        except OSError:  # the next line tries again
            return

    def close(self) -> None:
        """Write what is left, as far as that is possible."""
        self.flush()
        self._file.close()


class NoLines:
    """Lines that are not wanted; a file of an earlier part of the stream stays as it is.

    Args:
        length: Bytes of that file that count.
    """

    is_whole = True

    def __init__(self, length: int = 0) -> None:
        self.length = length

    def write(self, record: Mapping[str, Any]) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class VideoParts:
    """An mp4 file that is written in parts, of which a killed stream loses the last one at most.

    An mp4 file is readable when it is closed. So a part is closed whenever the state of the stream is saved, and the
    parts are joined at the end.

    Args:
        path: The video, ``FOLDER/annotated.mp4``; the parts are in ``FOLDER/annotated/`` meanwhile.
        fps: Frames a second.
        frame: Number of the frame that the stream begins with, or goes on with: parts from there on are removed.
    """

    def __init__(self, path: Path, fps: float, frame: int = 0) -> None:
        self.path = path
        self._fps = fps
        self._folder = path.with_suffix("")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._folder.mkdir(exist_ok=True)
        for part in self._parts():
            if int(part.stem) >= frame:
                part.unlink()
        if path.is_file() and frame:  # of a stream that had ended
            path.replace(self._part(0))

    def _parts(self) -> list[Path]:
        return _parts(self._folder)

    def _part(self, frame: int) -> Path:
        return self._folder / f"{frame:010d}.mp4"

    def write(self, frame: int, image: np.ndarray) -> None:
        """Append a frame (H, W, 3), in the size of the part's first one."""
        if self._writer is None:
            self._size = (image.shape[1], image.shape[0])
            self._writer = _writer(self._part(frame), self._fps, self._size)
        self._writer.write(_resized(image, self._size))

    def rotate(self) -> None:
        """Close the part: what was written until now is safe."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def join(self) -> int:
        """Join the parts at the end; returns the number of frames of the video, 0 where the parts stay.

        Frames of another size than the first are resized to it.
        """
        self.rotate()
        parts, whole = self._parts(), self._folder / _WHOLE
        if len(parts) == 1:
            frames = len(mmcv.VideoReader(str(parts[0])))
            parts[0].replace(self.path)
        elif frames := _join(parts, whole, self._fps):
            whole.replace(self.path)
            for part in parts:
                part.unlink()
        if not self._parts():
            self._folder.rmdir()
        return frames


def remove_video(path: Path) -> None:
    """Remove a video and the parts that it is written in, if they are there.

    Args:
        path: Of :class:`VideoParts`.
    """
    folder = path.with_suffix("")
    for file in (path, *_parts(folder), folder / _WHOLE):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there is none, or something else is in it
        folder.rmdir()


def _parts(folder: Path) -> list[Path]:
    return sorted(part for part in folder.glob("*.mp4") if part.stem.isdigit())


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return image if image.shape[1::-1] == size else cv2.resize(image, size)


def _writer(path: Path, fps: float, size: tuple[int, int]) -> cv2.VideoWriter:
    # MPEG-4 part 2: OpenCV's wheels have no encoder for H.264.
    return cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)


def _join(parts: Sequence[Path], out: Path, fps: float) -> int:
    """Write the frames of some videos into one; returns their number, 0 where that was not possible."""
    readers = [mmcv.VideoReader(str(part)) for part in parts]
    readable = [reader for reader in readers if len(reader) > 0]
    if not readable:
        return 0
    size = (readable[0].width, readable[0].height)
    writer = _writer(out, fps, size)
    frames = 0
    for reader in readable if writer.isOpened() else ():
        for image in reader:
            writer.write(_resized(image, size))
            frames += 1
    writer.release()
    # A full disk is no error of the writer's: what it wrote is counted.
    if frames and len(mmcv.VideoReader(str(out))) == frames:
        return frames
    out.unlink(missing_ok=True)
    return 0


def draw(image: np.ndarray, found: InstanceData, classes: Sequence[str], caption: str) -> np.ndarray:
    """A copy of a frame with boxes and a line of text.

    Args:
        image: (H, W, 3) uint8, BGR.
        found: ``bboxes``, ``labels`` and ``scores`` on the host.
        classes: Names of the classes.
        caption: The line, in the upper left corner.
    """
    image = image.copy()
    scale = max(image.shape[0] / 600, 0.35)
    for box, label, score in zip(
        found.bboxes.round().int().tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
    ):
        colour = _COLOURS[label % len(_COLOURS)]
        cv2.rectangle(image, box[:2], box[2:], colour, 1 if scale < 0.6 else 2)
        _text(image, f"{classes[label]} {score:.2f}", (box[0] + 2, box[1] + int(26 * scale)), scale, colour)
    _text(image, caption, (4, int(28 * scale) + 2), scale, (255, 255, 255))
    return image


def _text(
    image: np.ndarray, text: str, place: tuple[int, int], scale: float, colour: tuple[int, ...]
) -> None:
    for ink, width in (((0, 0, 0), 3), (colour, 1)):  # dark around it, to be read on any ground
        cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, width, cv2.LINE_AA)
