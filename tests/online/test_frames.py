"""Frames of files, folders and streams that end, or cannot be read."""

from lad.errors import ConfigError, DataError
from lad.online.frames import ImageFolder, Stream, VideoFile, open_frames

import cv2
import mmcv
import numpy as np
import pytest


@pytest.fixture
def video(tmp_path):
    """Twelve frames of 32 x 24 pixels, each brighter than the one before."""
    path = str(tmp_path / "video.mp4")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), 12.0, (32, 24))
    for number in range(12):
        writer.write(np.full((24, 32, 3), 20 * number, np.uint8))
    writer.release()
    return path


def numbers(frames):
    return [round(frame.mean() / 20) for frame in frames]


@pytest.mark.parametrize("start", [0, 5, 11])
def test_video_is_read_from_any_frame(video, start):
    frames = open_frames(video)
    assert isinstance(frames, VideoFile)
    assert (frames.length, frames.fps, frames.is_live) == (12, 12.0, False)
    assert numbers(frames.read_from(start)) == list(range(start, 12))
    assert frames.ending(12) is None


def test_frames_from_the_middle_are_those_of_the_whole(video):
    whole = list(open_frames(video).read_from(0))
    part = list(open_frames(video).read_from(7))
    assert all(np.array_equal(*pair) for pair in zip(part, whole[7:], strict=True))


def test_nothing_is_behind_the_end(video):
    assert list(open_frames(video).read_from(20)) == []


def test_file_that_is_no_video_has_no_frames(tmp_path):
    (tmp_path / "video.mp4").write_bytes(b"no video at all")
    frames = open_frames(str(tmp_path / "video.mp4"))
    assert list(frames.read_from(0)) == []
    assert "has no frame that can be decoded" in frames.ending(0)


def test_video_that_breaks_off_says_so(video):
    frames = open_frames(video)
    assert frames.ending(7) == f"{video} ends after 7 of 12 frames: what follows cannot be decoded"


def test_folder_of_images_of_any_size_and_kind(tmp_path):
    for number, shape in enumerate([(24, 32, 3), (10, 10, 3), (24, 32)]):
        mmcv.imwrite(np.full(shape, 40 * number, np.uint8), str(tmp_path / f"{number}.png"))
    (tmp_path / "1b.png").write_bytes(b"no image")
    frames = open_frames(str(tmp_path))
    assert isinstance(frames, ImageFolder)
    found = list(frames.read_from(0))
    assert [image.shape for image in found] == [(24, 32, 3), (10, 10, 3), (24, 32, 3)]
    assert frames.ending(3) == f"1 images of {tmp_path} cannot be decoded, 1b.png for one"
    assert [image.mean() for image in open_frames(str(tmp_path)).read_from(2)] == [80.0]


def test_folder_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="no image in"):
        open_frames(str(tmp_path))


def test_missing_file_is_refused_with_the_nearest(video):
    with pytest.raises(ConfigError, match=r"there is no video .*vide\.mp4'; nearest: .*video\.mp4"):
        open_frames(video.replace("video.mp4", "vide.mp4"))


def test_stream_that_cannot_be_opened_has_no_frames():
    frames = open_frames("http://127.0.0.1:9/stream")
    assert isinstance(frames, Stream)
    assert frames.is_live
    assert frames.length is None
    assert frames.fps == 25.0
    assert list(frames.read_from(0)) == []
    assert frames.ending(0) == "http://127.0.0.1:9/stream cannot be opened, or sends nothing"


def test_address_is_read_as_it_comes(video):
    """By FFmpeg's protocol for files, as there is no network."""
    frames = open_frames(f"file://{video}")
    assert isinstance(frames, Stream)
    assert numbers(frames.read_from(0)) == list(range(12))
    assert frames.ending(12) == f"file://{video} ended"
