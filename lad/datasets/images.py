"""Checks of image files: presence, decoding, size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath

from lad.datasets.problems import Problem

import mmcv
from PIL import ExifTags, Image, UnidentifiedImageError

#: Last bytes of complete JPEG and PNG files; other files are decoded again with Pillow, which detects truncation.
ENDINGS = (b"\xff\xd9", b"IEND\xaeB`\x82")


def image_problems(
    image: dict, folder: str | Path, check: Callable[[Path, int | None, int | None], str] | None = None
) -> Iterator[Problem]:
    """Problems of the file of one entry of ``images``.

    Args:
        image: An entry of ``images`` of an annotation file.
        folder: The folder of the images.
        check: Returns what is wrong with an image, as :func:`check_image` does (default).
    """
    name = image.get("file_name")
    if not isinstance(name, str) or leaves_folder(name):
        # Reported by check_coco; and nothing outside the folder is opened.
        return
    path = Path(folder) / name
    where = f"image {image.get('id')}"
    if not path.is_file():
        yield Problem("missing_file", str(path), where, "there is no such file")
        return
    message = (check or check_image)(path, image.get("width"), image.get("height"))
    if message:
        yield Problem("bad_image", str(path), where, message)


def check_image(
    path: Path,
    width: int | None = None,
    height: int | None = None,
    flag: str = "color",
    backend: str | None = None,
) -> str:
    """Decode an image as training does; returns the problem, or an empty string.

    Args:
        path: The file.
        width: The width that the annotation file gives, in pixels.
        height: The height likewise.
        flag: ``color_type`` of the pipeline's ``LoadImageFromFile``.
        backend: Its ``imdecode_backend``; None for MMCV's default.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if not content:
        return "the file is empty"
    try:
        pixels = mmcv.imfrombytes(content, flag=flag, backend=backend)
    except Exception as error:  # decoders may raise anything
        return f"cannot be decoded: {' '.join(str(error).split())[:120]}"
    if pixels is None:
        return "cannot be decoded: not an image, or damaged"
    if not content.rstrip(b"\0").endswith(ENDINGS):
        # OpenCV fills missing data with grey without an error.
        try:
            with Image.open(BytesIO(content)) as image:
                image.load()
        except UnidentifiedImageError:
            pass  # a format that only OpenCV reads
        except (OSError, SyntaxError, ValueError) as error:
            return f"is truncated or damaged: {error}"
    return size_problem(content, pixels.shape[:2], width, height)


def size_problem(content: bytes, shape: tuple[int, int], width: int | None, height: int | None) -> str:
    """How the size of decoded pixels differs from the annotations', for which the boxes are; empty if it does not.

    Args:
        content: The file's bytes, for its EXIF orientation.
        shape: (height, width) of the decoded pixels.
        width: The width that the annotation file gives, in pixels; None if unknown.
        height: The height likewise.
    """
    if not width or not height or shape == (height, width):
        return ""
    sizes = f"{shape[1]}x{shape[0]} pixels, but {width}x{height} in the annotation file"
    orientation = exif_orientation(content) if shape == (width, height) else 1
    if orientation == 1:
        return f"is {sizes}"
    return (
        f"is turned by its EXIF orientation ({orientation}) to {sizes}: annotate it as it is shown, or load it with "
        "LoadImageFromFile(color_type='color_ignore_orientation')"
    )


def exif_orientation(content: bytes) -> int:
    """EXIF orientation of an image file, 1 (upright) to 8; 1 if it has none."""
    try:
        with Image.open(BytesIO(content)) as image:
            return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return 1


def leaves_folder(name: str) -> bool:
    """Whether a path is empty, absolute or leads out of its folder, on any operating system."""
    return (
        any(
            path.is_absolute() or bool(path.drive) or ".." in path.parts
            for path in (PurePosixPath(name), PureWindowsPath(name))
        )
        or not name
    )
