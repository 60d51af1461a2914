"""Cut the boxes of a COCO file out of its images, to pretrain on them without labels: cut_objects.py FILE IMAGES OUT"""

from __future__ import annotations

import argparse
from pathlib import Path

from lad.cli.messages import one_line_errors
from lad.cli.progress_bar import progress_bar
from lad.datasets.coco_needs import BOX, ID, NUMBER, TEXT, read_needed
from lad.datasets.object_crops import cut_objects

#: What is read of the file.
NEEDS = dict(
    images=dict(id=ID, file_name=TEXT),
    annotations=dict(id=ID, image_id=ID, bbox=BOX, score=NUMBER.or_none()),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("file", type=Path, help="boxes in COCO's form, of labels or of tools/label.py")
    parser.add_argument("images", type=Path, help="folder of its images")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument(
        "--context", type=float, default=0.0, help="added on each side, as a part of the side"
    )
    parser.add_argument("--min-side", type=int, default=8, help="smaller boxes are left out, px")
    parser.add_argument("--min-score", type=float, default=0.0, help="of detections with scores")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_line_errors():
        content = read_needed(args.file, NEEDS)
        with progress_bar(len(content["images"])) as update:
            count = cut_objects(
                content,
                args.images,
                args.out,
                args.context,
                args.min_side,
                args.min_score,
                progress=lambda done, total: update(1),
            )
        print(f"{args.out}: {count} objects of {len(content['images'])} images")


if __name__ == "__main__":
    main()
