"""Make a video of a window panning over a COCO file's photographs, with its boxes: make_video.py FILE IMAGES OUT"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lad.cli.messages import one_line_errors
from lad.datasets.panning_video import ANNOTATIONS, VIDEO, PanningParameters, make_video
from lad.errors import ConfigError

from mmengine.utils import ProgressBar


def parse_args() -> argparse.Namespace:
    defaults = PanningParameters()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("file", type=Path, help="annotations in COCO's form")
    parser.add_argument("images", type=Path, help="folder of its photographs")
    parser.add_argument("out", type=Path, help=f"folder to write, with {VIDEO} and {ANNOTATIONS}")
    parser.add_argument("--frames", type=int, default=defaults.frames)
    parser.add_argument(
        "--size", type=int, nargs=2, default=[defaults.width, defaults.height], metavar=("WIDTH", "HEIGHT")
    )
    parser.add_argument("--fps", type=float, default=defaults.fps, help="frames a second")
    parser.add_argument("--shot", type=int, default=defaults.shot, help="frames between two cuts")
    for name, what in (
        ("zoom", "magnification of a shot"),
        ("brightness", "factor of the pixel values, which changes within a shot"),
    ):
        parser.add_argument(
            f"--{name}",
            type=float,
            nargs=2,
            default=list(getattr(defaults, name)),
            metavar=("LEAST", "MOST"),
            help=what,
        )
    parser.add_argument(
        "--min-visible",
        type=float,
        default=defaults.min_visible,
        help="boxes of which less is in the window are left out",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="same seed, same video")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_line_errors():
        if not args.file.is_file():
            raise ConfigError(f"there is no annotation file {args.file}.")
        parameters = PanningParameters(
            frames=args.frames,
            width=args.size[0],
            height=args.size[1],
            fps=args.fps,
            shot=args.shot,
            zoom=tuple(args.zoom),
            brightness=tuple(args.brightness),
            min_visible=args.min_visible,
            seed=args.seed,
        )
        bar = ProgressBar(args.frames, file=sys.stderr)
        boxes = make_video(
            json.loads(args.file.read_text()),
            args.images,
            args.out,
            parameters,
            force=args.force,
            progress=lambda done, total: bar.update(),
        )
        print(file=sys.stderr)
        print(f"{args.out}: {args.frames} frames with {boxes} boxes in {VIDEO} and {ANNOTATIONS}")


if __name__ == "__main__":
    main()
