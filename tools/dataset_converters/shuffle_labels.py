"""Deal out the classes of a COCO file anew among its boxes: shuffle_labels.py data/bccd/annotations/train.json OUT"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lad.cli.messages import one_line_errors
from lad.datasets.coco_needs import ID, read_needed
from lad.engine.checkpoints import write_whole
from lad.errors import ConfigError

import numpy as np

#: What is read of the file.
NEEDS = dict(annotations=dict(category_id=ID), categories={})


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="annotations in COCO's form")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.seed < 0:
        parser.error(f"--seed must be at least 0, got {args.seed}")
    return args


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
        content = read_needed(args.file, NEEDS)
        if args.out.exists() and args.out.samefile(args.file):
            raise ConfigError(f"{args.out} is the file itself; give another name.")
        content = shuffle_labels(content, args.seed)
        write_whole(args.out, json.dumps(content).encode())
        print(f"{args.out}: {len(content['annotations'])} boxes with classes dealt out anew")


if __name__ == "__main__":
    main()
