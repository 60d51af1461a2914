"""Pascal VOC annotations as COCO's."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lad.datasets.coco_file import box_annotation
from lad.datasets.images import leaves_folder
from lad.errors import ConfigError, DataError, listed

#: Suffixes of images, in the order in which they are looked for.
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def voc_names(folder: Path, split: str) -> list[str]:
    """Names of the images in a list of ``ImageSets/Main``; with their subfolders, where they are in any.

    Raises:
        ConfigError: there is no such list.
        DataError: it names no image, or one outside of the folder of the images.
    """
    file = folder / "ImageSets/Main" / f"{split}.txt"
    if not file.is_file():
        raise ConfigError(f"there is no list {file}; name others with --splits.")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no text: {error}.") from error
    # A list of one class has a second column.
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise DataError(f"{file} names no image: list some, or name other lists with --splits.")
    for name in names:
        if leaves_folder(name):
            raise DataError(f"{file} names {name!r}, which is not in the folder of the images.")
    return names


def voc_classes(folder: Path) -> list[str]:
    """Names of all classes in ``Annotations``, in alphabetical order.

    Raises:
        DataError: an annotation is no XML, or an object has no name.
    """
    return sorted(
        {
            _label(file, thing, number)
            for file in (folder / "Annotations").glob("*.xml")
            for number, thing in enumerate(_root(file).iter("object"), 1)
        }
    )


def convert_voc(folder: Path, names: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """The COCO content of some images of a VOC folder.

    VOC counts pixels from 1 and includes the last one; a box from 1 to 10 begins at 0 and is 10 wide.

    Args:
        folder: With ``Annotations`` and ``JPEGImages``.
        names: Of images, without suffix.
        classes: Category names in the order of their ids, from 1.

    Raises:
        ConfigError: an annotation is missing, or names another class; a class is named twice.
        DataError: an annotation is no XML, or its size or a box is none.
    """
    twice = sorted({name for name in classes if list(classes).count(name) > 1})
    if twice:
        raise ConfigError(f"--classes names {listed(map(repr, twice))} more than once: name each class once.")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, name in enumerate(names, 1):
        file = folder / "Annotations" / f"{name}.xml"
        if not file.is_file():
            raise ConfigError(f"there is no annotation {file}; check the list in ImageSets/Main.")
        root = _root(file)
        width, height = (_side(file, root, side) for side in ("width", "height"))
        images.append(dict(id=number, file_name=_image_name(folder, name), width=width, height=height))
        for index, thing in enumerate(root.iter("object"), 1):
            label = _label(file, thing, index)
            if label not in classes:
                raise ConfigError(f"{file} has an object {label!r}, which --classes does not name.")
            box = _box(file, thing, f"object {index} ({label})")
            annotations.append(box_annotation(len(annotations) + 1, number, classes.index(label) + 1, box))
    categories = [dict(id=number, name=name) for number, name in enumerate(classes, 1)]
    return dict(images=images, annotations=annotations, categories=categories)


def _root(file: Path) -> ET.Element:
    try:
        return ET.parse(file).getroot()
    except (ET.ParseError, ValueError, LookupError) as error:  # the latter two of the encoding
        raise DataError(f"{file} is no XML file: {error}: mend it, or take it out of the list.") from error


def _label(file: Path, thing: ET.Element, number: int) -> str:
    label = thing.findtext("name")
    if not label:
        raise DataError(f"{file}: object {number} has no name: give it one, or take it out.")
    return label


def _number(file: Path, node: ET.Element, path: str, where: str) -> float:
    text = node.findtext(path)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        told = "is absent" if text is None else f"is {text!r:.40}, no number"
        raise DataError(f"{file}: {path} of {where} {told}: mend it, or take it out.")
    return value


def _side(file: Path, root: ET.Element, side: str) -> int:
    """Width or height of the image, px; some tools write a whole number as 128.0."""
    value = _number(file, root, f"size/{side}", "the image")
    if value < 1 or value != int(value):
        raise DataError(
            f"{file}: size/{side} of the image is {value:g}: it must be a whole number from 1 on."
        )
    return int(value)


def _box(file: Path, thing: ET.Element, where: str) -> list[float]:
    """Left, top, width and height of an object, px from 0."""
    x1, y1, x2, y2 = (
        _number(file, thing, f"bndbox/{side}", where) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    if x1 > x2 or y1 > y2:
        raise DataError(
            f"{file}: the box of {where} ends before it begins (x {x1:g} to {x2:g}, y {y1:g} to {y2:g}): mend it, or "
            "take it out."
        )
    return [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]


def _image_name(folder: Path, name: str) -> str:
    found = (f"{name}{suffix}" for suffix in IMAGES if (folder / "JPEGImages" / f"{name}{suffix}").is_file())
    return next(found, f"{name}{IMAGES[0]}")
