"""Split a COCO file among the clients of a federation.

lad split-clients train.json --out clients/ --classes a=RBC b=WBC,Platelets

With --classes each client gets an equal part of the images and the annotations of its classes; with --dirichlet ALPHA
--clients N clients have unevenly distributed classes; with --by-folder the folders of the images are the clients. It
writes OUT/CLIENT.json and prints the clients= of federation=dict(...).
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from lad.cli.messages import one_line_errors
from lad.datasets.client_split import NEEDS, split_by_classes, split_by_dirichlet, split_by_folder
from lad.datasets.coco_needs import read_needed
from lad.engine.checkpoints import write_whole
from lad.errors import ConfigError
from lad.federated.settings import check_client_name


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="the COCO file")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for the clients' files")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument(
        "--classes",
        nargs="+",
        metavar="CLIENT=CLASS,CLASS",
        help="the classes that each client annotates",
    )
    way.add_argument("--dirichlet", type=float, metavar="ALPHA", help="concentration of each class's shares")
    way.add_argument("--by-folder", action="store_true", help="the first folder of a file name is its client")
    parser.add_argument("--clients", type=int, default=3, help="how many, with --dirichlet (default: 3)")
    parser.add_argument(
        "--skip",
        type=int,
        default=0,
        metavar="N",
        help="leave out the first N images, such as the server's own",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="replace existing files")
    return parser.parse_args()


def parse_classes(texts: list[str]) -> dict[str, list[str]]:
    """Clients and their classes from ``CLIENT=CLASS,CLASS``.

    Raises:
        ConfigError: a text is of another form, or names a client again.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        client, equals, names = text.partition("=")
        if not equals or not names:
            raise ConfigError(f"--classes: {text!r} is not CLIENT=CLASS,CLASS.")
        if client in found:
            raise ConfigError(f"--classes names the client {client!r} twice.")
        found[client] = [name.strip() for name in names.split(",")]
    return found


def split_clients(args: argparse.Namespace) -> None:
    """Split as the arguments say."""
    content = read_needed(args.file, NEEDS)
    if not 0 <= args.skip < len(content["images"]):
        raise ConfigError(f"--skip must be from 0 to {len(content['images']) - 1}, got {args.skip}.")
    left = {image["id"] for image in content["images"][args.skip :]}
    content = dict(
        content,
        images=content["images"][args.skip :],
        annotations=[one for one in content["annotations"] if one["image_id"] in left],
    )
    parts: dict[str, dict[str, Any]]
    if args.classes:
        parts = split_by_classes(content, parse_classes(args.classes), args.seed)
    elif args.by_folder:
        parts = split_by_folder(content)
    else:
        names = [f"client_{number}" for number in range(args.clients)]
        parts = split_by_dirichlet(content, names, args.dirichlet, args.seed)
    paths = {}
    for client in parts:
        check_client_name(client)
        paths[client] = args.out / f"{client}.json"
        if paths[client].exists() and not args.force:
            raise ConfigError(f"{paths[client]} exists: give another --out, or --force to replace it.")
    names_of = {category["id"]: category["name"] for category in content["categories"]}
    for client, part in parts.items():
        write_whole(paths[client], json.dumps(part).encode())
        counts = Counter(names_of.get(one["category_id"]) for one in part["annotations"])
        objects = ", ".join(f"{counts[name]} {name}" for name in names_of.values() if counts[name])
        print(f"{paths[client]}: {len(part['images'])} images, {objects or 'no objects'}")
    print("federation = dict(\n    rounds=8,\n    clients=dict(")
    for client, path in paths.items():
        print(f"        {client}=dict(ann_file={str(path.resolve())!r}),")
    print("    ),\n)")


def main() -> None:
    """Run ``lad split-clients``."""
    args = parse_args()
    with one_line_errors():
        split_clients(args)


if __name__ == "__main__":
    main()
