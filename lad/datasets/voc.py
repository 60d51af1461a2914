"""Pascal VOC annotations as COCO's."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lad.datasets.coco_file import box_annotation
from lad.errors import ConfigError

#: Suffixes of images, in the order in which they are looked for.
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def voc_names(folder: Path, split: str) -> list[str]:
    """Names of the images in a list of ``ImageSets/Main``.

    Raises:
        ConfigError: there is no such list.
    """
    file = folder / "ImageSets/Main" / f"{split}.txt"
    if not file.is_file():
        raise ConfigError(f"there is no list {file}; name others with --splits.")
    # A list of one class has a second column.
    return [line.split()[0] for line in file.read_text().splitlines() if line.strip()]


def voc_classes(folder: Path) -> list[str]:
    """Names of all classes in ``Annotations``, in alphabetical order."""
    return sorted(
        {
            str(thing.findtext("name"))
            for file in (folder / "Annotations").glob("*.xml")
            for thing in ET.parse(file).getroot().iter("object")
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
        ConfigError: an annotation is missing, or names another class.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, name in enumerate(names, 1):
        file = folder / "Annotations" / f"{name}.xml"
        if not file.is_file():
            raise ConfigError(f"there is no annotation {file}; check the list in ImageSets/Main.")
        root = ET.parse(file).getroot()
        width, height = (int(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
        images.append(dict(id=number, file_name=_image_name(folder, name), width=width, height=height))
        for thing in root.iter("object"):
            label = thing.findtext("name")
            if label not in classes:
                raise ConfigError(f"{file} has an object {label!r}, which --classes does not name.")
            x1, y1, x2, y2 = (
                float(thing.findtext(f"bndbox/{side}") or 0) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            box = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
            annotations.append(box_annotation(len(annotations) + 1, number, classes.index(label) + 1, box))
    categories = [dict(id=number, name=name) for number, name in enumerate(classes, 1)]
    return dict(images=images, annotations=annotations, categories=categories)


def _image_name(folder: Path, name: str) -> str:
    found = (f"{name}{suffix}" for suffix in IMAGES if (folder / "JPEGImages" / f"{name}{suffix}").is_file())
    return next(found, f"{name}{IMAGES[0]}")
