"""The files of a stream in its folder, and their removal where another stream takes its place."""

from __future__ import annotations

from pathlib import Path

from lad.online.outputs import remove_video

STATE, STUDENT, LOG, DETECTIONS, VIDEO, PICTURE = (
    "state.pth",
    "student.pth",
    "log.jsonl",
    "detections.jsonl",
    "annotated.mp4",
    "stream.png",
)
#: Without the picture: what a folder is known by to hold a stream.
OF_A_STREAM = (STATE, STUDENT, LOG, DETECTIONS, VIDEO)


def remove_stream(folder: Path) -> None:
    """Remove the stream that a folder holds, but its log, which tells that a stream is there until another is begun.

    The state goes first: whatever a kill leaves, nothing can be resumed that the new stream has begun to replace.

    Args:
        folder: The folder; files that are of no stream stay.
    """
    for name in (STATE, STUDENT, DETECTIONS, PICTURE):
        (folder / name).unlink(missing_ok=True)
    remove_video(folder / VIDEO)
