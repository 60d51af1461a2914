"""Make a video of a window panning over a COCO file's photographs, with its boxes: make_video.py FILE IMAGES OUT"""

from __future__ import annotations

import argparse
from pathlib import Path

from lad.cli.messages import one_line_errors
from lad.cli.progress_bar import progress_bar
from lad.datasets.coco_needs import BOX, ID, LENGTH, TEXT, read_needed
from lad.datasets.panning_video import ANNOTATIONS, VIDEO, PanningParameters, make_video

#: What is read of the file.
NEEDS = dict(
    images=dict(id=ID, file_name=TEXT, width=LENGTH, height=LENGTH),
    annotations=dict(image_id=ID, category_id=ID, bbox=BOX),
    categories=dict(id=ID, name=TEXT),
)


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
    args = parser.parse_args()
    if args.seed < 0:
        parser.error(f"--seed must be at least 0, got {args.seed}")
    return args


def main() -> None:
    args = parse_args()
    with one_line_errors():
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
        content = read_needed(args.file, NEEDS)
        with progress_bar(args.frames) as update:
            boxes = make_video(
                content,
                args.images,
                args.out,
                parameters,
                force=args.force,
                progress=lambda done, total: update(1),
            )
        print(f"{args.out}: {args.frames} frames with {boxes} boxes in {VIDEO} and {ANNOTATIONS}")


if __name__ == "__main__":
    main()
