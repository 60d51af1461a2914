"""Checks of COCO annotation files and their images that report all problems in one pass."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from lad.errors import listed

import mmcv
from PIL import Image, UnidentifiedImageError

#: Last bytes of complete JPEG and PNG files; other files are decoded again with Pillow, which detects truncation.
ENDINGS = (b"\xff\xd9", b"IEND\xaeB`\x82")
#: Pixels that a box may extend beyond its image: COCO's own boxes do by rounding.
SLACK = 1.0


@dataclass(frozen=True)
class Problem:
    """One problem of an annotation file or an image.

    Attributes:
        kind: Name of the kind of problem: ``'missing_file'``, ``'zero_size_box'``, ...
        file: Path of the file.
        where: The entry in the file (``'image 7'``, ``'annotation 12 of image 7'``), empty for the file as a whole.
        message: Description of the problem.
        fatal: Whether the file cannot be trained on: MMDetection neither ignores the entry nor reads it as intended.
    """

    kind: str
    file: str
    where: str
    message: str
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.file}: {self.where + ': ' if self.where else ''}{self.message}"


def read_coco(path: str | Path) -> tuple[dict | None, list[Problem]]:
    """Read an annotation file and check that it has COCO's structure.

    Returns:
        The content, None if it is unusable; the problems.
    """

    def unusable(kind: str, message: str) -> tuple[None, list[Problem]]:
        return None, [Problem(kind, str(path), "", message, fatal=True)]

    try:
        with open(path, "rb") as file:
            content = json.load(file)
    except FileNotFoundError:
        return unusable("missing_file", "there is no such annotation file")
    except (ValueError, UnicodeDecodeError) as error:
        return unusable("not_json", f"not a JSON file: {error}")
    except OSError as error:
        return unusable("unreadable_file", f"cannot be read: {error.strerror or error}")
    if not isinstance(content, dict):
        return unusable(
            "not_coco", f"not a COCO annotation file: it holds a {type(content).__name__}, not a dict"
        )
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            found = listed(sorted(map(str, content)))
            return unusable(
                "not_coco", f"not a COCO annotation file: it has no list of {key} (keys: {found})"
            )
    return content, []


def check_coco(content: dict, file: str, classes: Sequence[str] | None = None) -> list[Problem]:
    """Check the content of an annotation file.

    Args:
        content: Of :func:`read_coco`: ``images``, ``annotations``, ``categories``.
        file: Path of the file, for the problems.
        classes: The class names that a config trains on, if known.
    """
    problems: list[Problem] = []

    def report(kind: str, where: str, message: str, fatal: bool = False) -> None:
        problems.append(Problem(kind, file, where, message, fatal))

    categories = {category.get("id") for category in content["categories"]}
    for kind, entries in (("category", "categories"), ("image", "images"), ("annotation", "annotations")):
        for number, count in Counter(_hashable(entry.get("id")) for entry in content[entries]).items():
            if number is None:
                report("missing_key", "", f"{count} {entries} have no id", fatal=True)
            elif count > 1:
                report(f"duplicate_{kind}_id", f"{kind} {number}", f"the id occurs {count} times", fatal=True)
    if classes is not None:
        _check_classes(content["categories"], classes, report)

    images = {}
    for image in content["images"]:
        where = f"image {image.get('id')}"
        images[_hashable(image.get("id"))] = image
        missing = [key for key in ("file_name", "width", "height") if key not in image]
        if missing:
            report("missing_key", where, f"no {listed(missing)}", fatal=True)
        elif not (_positive(image["width"]) and _positive(image["height"])):
            report("zero_size_image", where, f"its size is {image['width']}x{image['height']}")
        if "file_name" in image and leaves_folder(str(image["file_name"])):
            report("path_outside", where, f"its path {image['file_name']!r} leaves the image folder")
    named = Counter(str(image["file_name"]) for image in content["images"] if "file_name" in image)
    for name, count in named.items():
        if count > 1:
            report("duplicate_image", "", f"{count} images share the file {name!r}")

    usable = 0
    for annotation in content["annotations"]:
        found = list(_annotation_problems(annotation, images, categories))
        where = f"annotation {annotation.get('id')} of image {annotation.get('image_id')}"
        for kind, message, fatal in found:
            report(kind, where, message, fatal)
        usable += not found and not annotation.get("iscrowd", False)
    if not content["images"]:
        report("no_images", "", "there are no images", fatal=True)
    elif not usable:
        report("no_objects", "", "no image has a usable object", fatal=True)
    return problems


def _check_classes(categories: list[dict], classes: Sequence[str], report: Callable[..., None]) -> None:
    # MMDetection numbers the classes that it finds in the file's order, and names them in the config's.
    in_file = [category["name"] for category in categories if category.get("name") in classes]
    known = listed([str(category.get("name")) for category in categories], 5)
    for name in classes:
        if name not in in_file:
            message = f"class {name!r} of the config is no category of the file ({known})"
            report("absent_class", "", message, fatal=in_file != list(classes[: len(in_file)]))
    if in_file != list(classes) and sorted(in_file) == sorted(classes):
        report(
            "class_order",
            "",
            f"the config's classes ({listed(classes)}) are in another order than the file's categories "
            f"({listed(in_file)}): MMDetection numbers labels in the file's order and names them in the config's",
        )


def _annotation_problems(annotation: dict, images: dict, categories: set) -> Iterator[tuple[str, str, bool]]:
    missing = [key for key in ("image_id", "category_id", "bbox", "area") if key not in annotation]
    if missing:
        yield "missing_key", f"no {listed(missing)}", True
        return
    if _hashable(annotation["category_id"]) not in categories:
        yield "unknown_category", f"its category {annotation['category_id']} is not in the file", False
    image = images.get(_hashable(annotation["image_id"]))
    if image is None:
        yield "unknown_image", f"there is no image {annotation['image_id']}", False
    box = annotation["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(map(_number, box))):
        yield "not_a_box", f"its box is not four numbers: {str(box)[:60]}", True
        return
    if not all(map(math.isfinite, box)):
        # A NaN box is left out by MMDetection, an infinite one is not.
        yield "not_finite_box", f"its box is not finite: {box}", True
        return
    x, y, width, height = box
    if width <= 0 or height <= 0:
        yield "zero_size_box", f"its box has no area: width {width:g}, height {height:g}", False
    elif image is not None and _positive(image.get("width")) and _positive(image.get("height")):
        right, bottom = image["width"], image["height"]
        if x < -SLACK or y < -SLACK or x + width > right + SLACK or y + height > bottom + SLACK:
            box = ", ".join(f"{value:g}" for value in (x, y, x + width, y + height))
            yield "box_outside", f"its box ({box}) reaches out of the {right}x{bottom} image", False
    if not (_number(annotation["area"]) and annotation["area"] > 0) and width > 0 and height > 0:
        yield "zero_area", f"its area is {annotation['area']!r}, so that MMDetection leaves it out", False


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


def check_image(path: Path, width: int | None = None, height: int | None = None) -> str:
    """Decode an image as training does; returns the problem, or an empty string.

    Args:
        path: The file.
        width: The width that the annotation file gives, in pixels.
        height: The height likewise.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if not content:
        return "the file is empty"
    try:
        pixels = mmcv.imfrombytes(content)
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
    if width and height and pixels.shape[:2] != (height, width):
        return f"is {pixels.shape[1]}x{pixels.shape[0]} pixels, but {width}x{height} in the annotation file"
    return ""


def leaves_folder(name: str) -> bool:
    """Whether a path is empty, absolute or leads out of its folder, on any operating system."""
    return (
        any(
            path.is_absolute() or bool(path.drive) or ".." in path.parts
            for path in (PurePosixPath(name), PureWindowsPath(name))
        )
        or not name
    )


def summary(problems: Iterable[Problem]) -> str:
    """Count problems by kind, the most frequent first: ``3 zero_size_box, 1 missing_file``."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(p.kind for p in problems).most_common())


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return _number(value) and math.isfinite(value) and value > 0


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (int, str, float)) or value is None else repr(value)
