"""Pascal VOC annotations as COCO: voc_to_coco.py VOC_FOLDER --classes RBC WBC Platelets --out data/bccd"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from lad.cli.messages import one_line_errors
from lad.datasets.voc import convert_voc, voc_names


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with Annotations, ImageSets/Main and JPEGImages")
    parser.add_argument("--classes", nargs="+", required=True, help="class names in their order")
    parser.add_argument("--splits", nargs="+", default=["train", "val"], help="lists in ImageSets/Main")
    parser.add_argument("--out", type=Path, required=True, help="gets annotations/SPLIT.json and images/")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_line_errors():
        (args.out / "annotations").mkdir(parents=True, exist_ok=True)
        (args.out / "images").mkdir(exist_ok=True)
        for split in args.splits:
            content = convert_voc(args.folder, voc_names(args.folder, split), args.classes)
            for image in content["images"]:
                shutil.copy(args.folder / "JPEGImages" / image["file_name"], args.out / "images")
            (args.out / "annotations" / f"{split}.json").write_text(json.dumps(content))
            print(f"{split}: {len(content['images'])} images, {len(content['annotations'])} objects")


if __name__ == "__main__":
    main()
