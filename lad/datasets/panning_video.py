"""Videos of a window that pans over the photographs of a COCO file, with the boxes that are in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lad.datasets.coco_file import box_annotation
from lad.errors import ConfigError, DataError

import cv2
import mmcv
import numpy as np

VIDEO, ANNOTATIONS = "video.mp4", "annotations.json"


@dataclass(frozen=True)
class PanningParameters:
    """What a video of a panning window depends on besides the photographs.

    Attributes:
        frames: Number of frames.
        width, height: Of the frames, in pixels; even numbers, as encoders want.
        fps: Frames a second.
        shot: Frames between two cuts; the last shot may be shorter.
        zoom: Least and most magnification: of a photograph that has the frames' proportions the window shows the part
            1 / zoom of each side.
        brightness: Least and most factor of the pixel values; it changes linearly within a shot.
        min_visible: Boxes of which a smaller part is in the window are left out.
        seed: Of photographs, paths of the window and brightness.
    """

    frames: int = 600
    width: int = 320
    height: int = 240
    fps: float = 10.0
    shot: int = 100
    zoom: tuple[float, float] = (1.25, 1.75)
    brightness: tuple[float, float] = (0.6, 1.2)
    min_visible: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.frames, self.shot) < 1 or not self.fps > 0:
            raise ConfigError(
                f"frames and shot must be at least 1 and fps above 0, got {self.frames}, {self.shot} and {self.fps}."
            )
        if min(self.width, self.height) < 16 or self.width % 2 or self.height % 2:
            raise ConfigError(
                f"width and height must be even and at least 16, got {self.width} and {self.height}."
            )
        if not 1 <= self.zoom[0] <= self.zoom[1] < float("inf"):
            raise ConfigError(f"zoom must be two ascending numbers from 1 on, got {self.zoom}.")
        if not 0 < self.brightness[0] <= self.brightness[1] < float("inf"):
            raise ConfigError(f"brightness must be two ascending numbers above 0, got {self.brightness}.")
        if not 0 <= self.min_visible <= 1:
            raise ConfigError(f"min_visible must be from 0 to 1, got {self.min_visible}.")


@dataclass(frozen=True)
class Shot:
    """A window that moves over one photograph between two cuts.

    Attributes:
        image: Index of the photograph.
        begin, end: (left, top, width, height) of the window in the photograph, in pixels, in the first and the last
            frame; of equal size.
        brightness: Factor of the pixel values in the first and the last frame.
        frames: Number of frames.
    """

    image: int
    begin: np.ndarray
    end: np.ndarray
    brightness: tuple[float, float]
    frames: int

    def at(self, frame: int) -> tuple[np.ndarray, float]:
        """Window and brightness of a frame of the shot."""
        part = frame / max(self.frames - 1, 1)
        first, last = self.brightness
        return self.begin + part * (self.end - self.begin), first + part * (last - first)


def plan_shots(sizes: Sequence[tuple[int, int]], parameters: PanningParameters) -> list[Shot]:
    """Choose photographs and paths of the window.

    Args:
        sizes: Width and height of each photograph, in pixels.
        parameters: Of the video.
    """
    random = np.random.default_rng(parameters.seed)
    shots: list[Shot] = []
    left = parameters.frames
    order: list[int] = []
    while left > 0:
        if not order:  # every photograph once before any comes again
            order = list(random.permutation(len(sizes)))
        image = int(order.pop())
        zoom = random.uniform(*parameters.zoom)
        # As large as the photograph lets a window of the frames' proportions be, and smaller by the zoom.
        scale = min(sizes[image][0] / parameters.width, sizes[image][1] / parameters.height) / zoom
        window = np.array([parameters.width, parameters.height]) * scale
        corners = random.uniform(size=(2, 2)) * (np.array(sizes[image]) - window)
        first, last = random.uniform(*parameters.brightness, size=2)
        frames = min(parameters.shot, left)
        shots.append(
            Shot(
                image,
                np.concatenate([corners[0], window]),
                np.concatenate([corners[1], window]),
                (float(first), float(last)),
                frames,
            )
        )
        left -= frames
    return shots


def boxes_in_window(
    boxes: np.ndarray, window: np.ndarray, size: tuple[int, int], min_visible: float
) -> tuple[np.ndarray, np.ndarray]:
    """Move boxes of a photograph into a frame and clip them to it.

    Args:
        boxes: (N, 4) left, top, width and height in the photograph, in pixels.
        window: (4,) likewise.
        size: Width and height of the frame.
        min_visible: Boxes of which a smaller part of the area is in the window are left out, and those that are left
            with less than a pixel.

    Returns:
        (M, 4) left, top, width and height in the frame, in pixels; (M,) their indices among the N.
    """
    factor = np.asarray(size) / window[2:]
    corners = np.stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    moved = (corners - window[:2]) * factor
    clipped = np.clip(moved, 0, size)
    sides, whole = clipped[:, 1] - clipped[:, 0], moved[:, 1] - moved[:, 0]
    visible = sides.prod(axis=1) >= min_visible * whole.prod(axis=1)
    (kept,) = np.nonzero(visible & (sides >= 1).all(axis=1))
    return np.concatenate([clipped[kept, 0], sides[kept]], axis=1), kept


def make_video(
    content: Mapping[str, Any],
    images: str | Path,
    out: str | Path,
    parameters: PanningParameters,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write ``OUT/video.mp4``, and its boxes as ``OUT/annotations.json``: a COCO file with an image for each frame.

    Image ids count from 1; ``frame_id`` counts from 0. Crowds are left out.

    Args:
        content: Of the COCO file.
        images: Folder of its photographs.
        out: Folder to write.
        parameters: Of the video.
        force: Replace files that are there.
        progress: Called with (frames done, frames in all) after every frame.

    Returns:
        The number of boxes.

    Raises:
        ConfigError: there are files already.
        DataError: there is no image with boxes, an image cannot be read, or no video can be written.
    """
    out = Path(out)
    video, annotations = out / VIDEO, out / ANNOTATIONS
    for path in (video, annotations):
        if path.exists() and not force:
            raise ConfigError(f"{path} exists: give another folder, or --force to replace it.")
    boxes: dict[Any, list[dict]] = {}
    for one in content["annotations"]:
        if not one.get("iscrowd"):
            boxes.setdefault(one["image_id"], []).append(one)
    photographs = [image for image in content["images"] if image["id"] in boxes]
    if not photographs:
        raise DataError("no image of the file has a box: there is nothing to film.")
    size = (parameters.width, parameters.height)
    shots = plan_shots([(image["width"], image["height"]) for image in photographs], parameters)
    made_images: list[dict] = []
    made_boxes: list[dict] = []
    out.mkdir(parents=True, exist_ok=True)
    part = out / f".{VIDEO}"  # the ending decides the container
    writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*"mp4v"), parameters.fps, size)
    try:
        if not writer.isOpened():
            raise DataError(f"{video} cannot be written: no disk space, no permission, or no MPEG-4 encoder.")
        for shot in shots:
            photograph = photographs[shot.image]
            pixels = _read(
                Path(images) / photograph["file_name"], (photograph["width"], photograph["height"])
            )
            known = boxes[photograph["id"]]
            table = np.array([one["bbox"] for one in known], dtype=np.float64)
            for number in range(shot.frames):
                window, brightness = shot.at(number)
                writer.write(_film(pixels, window, size, brightness))
                found, kept = boxes_in_window(table, window, size, parameters.min_visible)
                frame = len(made_images)
                made_images.append(
                    dict(
                        id=frame + 1,
                        file_name=f"frame_{frame:06d}.png",
                        width=size[0],
                        height=size[1],
                        frame_id=frame,
                    )
                )
                for box, index in zip(found.round(2).tolist(), kept, strict=True):
                    category = known[index]["category_id"]
                    made_boxes.append(box_annotation(len(made_boxes) + 1, frame + 1, category, box))
                if progress is not None:
                    progress(frame + 1, parameters.frames)
        writer.release()
        info = dict(description="window panning over photographs", **asdict(parameters))
        part.replace(video)
        partial = out / f".{ANNOTATIONS}"
        partial.write_text(
            json.dumps(
                dict(
                    info=info,
                    images=made_images,
                    annotations=made_boxes,
                    categories=list(content["categories"]),
                )
            )
        )
        partial.replace(annotations)
    finally:
        writer.release()
        part.unlink(missing_ok=True)
    return len(made_boxes)


def _read(path: Path, size: tuple[int, int]) -> np.ndarray:
    pixels = mmcv.imread(str(path)) if path.is_file() else None
    if pixels is None:
        raise DataError(f"image {path} cannot be read.")
    if pixels.shape[1::-1] != size:
        raise DataError(
            f"image {path} is of {pixels.shape[1]} x {pixels.shape[0]} and not {size[0]} x {size[1]}."
        )
    return pixels


def _film(pixels: np.ndarray, window: np.ndarray, size: tuple[int, int], brightness: float) -> np.ndarray:
    """A frame (H, W, 3) of uint8: the window, in parts of pixels, resized to the frame."""
    factor = np.asarray(size) / window[2:]
    # From pixel centres of the photograph to those of the frame.
    shift = (0.5 - window[:2]) * factor - 0.5
    matrix = np.array([[factor[0], 0, shift[0]], [0, factor[1], shift[1]]])
    frame = cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.convertScaleAbs(frame, alpha=brightness)
