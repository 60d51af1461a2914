"""Deal out the classes of a COCO file anew among its boxes: shuffle_labels.py data/bccd/annotations/train.json OUT"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lad.cli.messages import one_line_errors
from lad.errors import ConfigError

import numpy as np


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="annotations in COCO's form")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def shuffle_labels(content: dict, seed: int = 0) -> dict:
    """The content of a COCO file with the category ids of its annotations in a random order.

    Boxes stay, and each class has as many as before: what is trained on it finds objects, and names them by chance.

    Args:
        content: Of the file.
        seed: Of the order.
    """
    order = np.random.default_rng(seed).permutation(len(content["annotations"]))
    ids = [content["annotations"][number]["category_id"] for number in order]
    shuffled = [
        dict(one, category_id=category) for one, category in zip(content["annotations"], ids, strict=True)
    ]
    return dict(content, annotations=shuffled)


def main() -> None:
    args = parse_args()
    with one_line_errors():
        if not args.file.is_file():
            raise ConfigError(f"there is no annotation file {args.file}.")
        if args.out.exists() and args.out.samefile(args.file):
            raise ConfigError(f"{args.out} is the file itself; give another name.")
        content = shuffle_labels(json.loads(args.file.read_text()), args.seed)
        args.out.write_text(json.dumps(content))
        print(f"{args.out}: {len(content['annotations'])} boxes with classes dealt out anew")


if __name__ == "__main__":
    main()
