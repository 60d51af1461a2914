"""Cut the boxes of a COCO file out of its images, to pretrain on them without labels: cut_objects.py FILE IMAGES OUT"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lad.cli.messages import one_line_errors
from lad.datasets.object_crops import cut_objects
from lad.errors import ConfigError

from mmengine.utils import ProgressBar


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
        if not args.file.is_file():
            raise ConfigError(f"there is no annotation file {args.file}.")
        content = json.loads(args.file.read_text())
        bar = ProgressBar(len(content["images"]), file=sys.stderr)
        count = cut_objects(
            content,
            args.images,
            args.out,
            args.context,
            args.min_side,
            args.min_score,
            progress=lambda done, total: bar.update(),
        )
        print(file=sys.stderr)
        print(f"{args.out}: {count} objects of {len(content['images'])} images")


if __name__ == "__main__":
    main()
