"""Folders of images without annotations, as COCO files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lad.errors import DataError

from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS


def image_files(folder: str | Path) -> list[Path]:
    """The images in a folder and its subfolders, relative to it, in the order of their names.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no image folder {folder}.")
    found = sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in IMG_EXTENSIONS and path.is_file()
    )
    if not found:
        raise DataError(f"there is no image in {folder} (endings: {', '.join(IMG_EXTENSIONS)}).")
    return found


def unlabelled_coco(folder: str | Path, files: Sequence[Path], classes: Sequence[str]) -> dict[str, Any]:
    """Content of a COCO file of images without annotations; image and category ids count from 1.

    Sizes are those of the images as they are shown, which is how they are decoded: turned by their EXIF orientation.

    Args:
        folder: The folder of the images.
        files: Their paths in it.
        classes: Names of the categories.

    Raises:
        DataError: an image cannot be opened.
    """
    images = []
    for number, file in enumerate(files, 1):
        width, height = _shown_size(Path(folder) / file)
        images.append(dict(id=number, file_name=file.as_posix(), width=width, height=height))
    categories = [dict(id=number, name=name) for number, name in enumerate(classes, 1)]
    return dict(images=images, annotations=[], categories=categories)


def _shown_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).size if image.getexif() else image.size
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"image {path} cannot be opened: {error}; mend it or take it out of the folder."
        ) from error
