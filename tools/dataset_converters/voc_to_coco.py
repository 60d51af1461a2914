"""Pascal VOC annotations as COCO: voc_to_coco.py VOC_FOLDER --classes RBC WBC Platelets --out data/bccd"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from lad.cli.messages import one_line_errors
from lad.datasets.voc import convert_voc, voc_names
from lad.engine.checkpoints import write_whole
from lad.errors import ConfigError, DataError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with Annotations, ImageSets/Main and JPEGImages")
    parser.add_argument("--classes", nargs="+", required=True, help="class names in their order")
    parser.add_argument("--splits", nargs="+", default=["train", "val"], help="lists in ImageSets/Main")
    parser.add_argument("--out", type=Path, required=True, help="gets annotations/SPLIT.json and images/")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    return parser.parse_args()


def check_files(sources: Mapping[Path, Path], written: list[Path], force: bool) -> None:
    """Refuse images that are not there, and to replace files.

    Args:
        sources: The images, by where they are copied to.
        written: The annotation files.
        force: Replace what is there.

    Raises:
        DataError: an image is not there.
        ConfigError: a file is there already; an image that is the same is not replaced.
    """
    for target, source in sources.items():
        if not source.is_file():
            raise DataError(f"there is no image {source.with_suffix('')} of any known ending.")
        if not force and target.exists() and target.read_bytes() != source.read_bytes():
            raise ConfigError(
                f"{target} exists and is another image: give another --out, or --force to replace it."
            )
    for path in written:
        if not force and path.exists():
            raise ConfigError(f"{path} exists: give another --out, or --force to replace it.")


def main() -> None:
    args = parse_args()
    with one_line_errors():
        contents = {
            split: convert_voc(args.folder, voc_names(args.folder, split), args.classes)
            for split in args.splits
        }
        files = {split: args.out / "annotations" / f"{split}.json" for split in contents}
        names = [image["file_name"] for content in contents.values() for image in content["images"]]
        sources = {args.out / "images" / name: args.folder / "JPEGImages" / name for name in names}
        check_files(sources, list(files.values()), args.force)
        for target, source in sources.items():
            write_whole(target, source.read_bytes())
        # Last: where they are, the images are complete.
        for split, content in contents.items():
            write_whole(files[split], json.dumps(content).encode())
            print(f"{split}: {len(content['images'])} images, {len(content['annotations'])} objects")


if __name__ == "__main__":
    main()
