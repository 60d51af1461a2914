"""Pascal VOC annotations as COCO: voc_to_coco.py VOC_FOLDER --classes RBC WBC Platelets --out data/bccd"""

from __future__ import annotations

import argparse
import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

from lad.cli.messages import one_line_errors
from lad.errors import ConfigError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with Annotations, ImageSets/Main and JPEGImages")
    parser.add_argument("--classes", nargs="+", required=True, help="class names in their order")
    parser.add_argument("--splits", nargs="+", default=["train", "val"], help="lists in ImageSets/Main")
    parser.add_argument("--out", type=Path, required=True, help="gets annotations/SPLIT.json and images/")
    return parser.parse_args()


def convert(folder: Path, names: list[str], classes: list[str]) -> dict:
    """The COCO content of some images of a VOC folder.

    VOC counts pixels from 1 and includes the last one; a box from 1 to 10 begins at 0 and is 10 wide.

    Args:
        folder: With ``Annotations`` and ``JPEGImages``.
        names: Of images, without suffix.
        classes: Category names in the order of their ids, from 1.

    Raises:
        ConfigError: an annotation is missing, or names another class.
    """
    images, annotations = [], []
    for number, name in enumerate(names, 1):
        file = folder / "Annotations" / f"{name}.xml"
        if not file.is_file():
            raise ConfigError(f"there is no annotation {file}; check the list in ImageSets/Main.")
        root = ET.parse(file).getroot()
        width, height = (int(root.findtext(f"size/{side}")) for side in ("width", "height"))
        images.append(dict(id=number, file_name=f"{name}.jpg", width=width, height=height))
        for thing in root.iter("object"):
            label = thing.findtext("name")
            if label not in classes:
                raise ConfigError(f"{file} has an object {label!r}, which --classes does not name.")
            x1, y1, x2, y2 = (
                float(thing.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            box = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number,
                    category_id=classes.index(label) + 1,
                    bbox=box,
                    area=box[2] * box[3],
                    iscrowd=0,
                    segmentation=[],
                )
            )
    categories = [dict(id=number, name=name) for number, name in enumerate(classes, 1)]
    return dict(images=images, annotations=annotations, categories=categories)


def main() -> None:
    args = parse_args()
    with one_line_errors():
        (args.out / "annotations").mkdir(parents=True, exist_ok=True)
        (args.out / "images").mkdir(exist_ok=True)
        for split in args.splits:
            file = args.folder / "ImageSets/Main" / f"{split}.txt"
            if not file.is_file():
                raise ConfigError(f"there is no list {file}; name others with --splits.")
            content = convert(args.folder, file.read_text().split(), args.classes)
            for image in content["images"]:
                shutil.copy(args.folder / "JPEGImages" / image["file_name"], args.out / "images")
            (args.out / "annotations" / f"{split}.json").write_text(json.dumps(content))
            print(f"{split}: {len(content['images'])} images, {len(content['annotations'])} objects")


if __name__ == "__main__":
    main()
