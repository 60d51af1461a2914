"""Make the demo data set: real handwritten digits on cards in front of photographs, in COCO's format."""

from __future__ import annotations

import argparse
import signal
import sys

from lad.datasets import DigitsParameters, make_digits

from mmengine.utils import ProgressBar


class _Progress:
    """A bar with the time left that appears with the first image, on stderr."""

    def __init__(self) -> None:
        self.bar: ProgressBar | None = None

    def __call__(self, done: int, total: int) -> None:
        if self.bar is None:
            self.bar = ProgressBar(total, file=sys.stderr)
        self.bar.update()
        if done == total:
            print(file=sys.stderr)


def parse_args() -> argparse.Namespace:
    defaults = DigitsParameters()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder to make, for instance data/digits")
    parser.add_argument("--images", type=int, default=defaults.images, help="training images")
    parser.add_argument("--val-images", type=int, default=defaults.val_images, help="validation images")
    parser.add_argument("--size", type=int, default=defaults.size, help="side of the images, px")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="same seed, same bytes")
    parser.add_argument(
        "--imbalance",
        type=float,
        default=defaults.imbalance,
        help="how much oftener the digit 0 is trained on than the digit 9: a long tail",
    )
    parser.add_argument("--force", action="store_true", help="replace the folder if it holds something else")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # A polite kill clears up behind itself as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        parameters = DigitsParameters(args.images, args.val_images, args.size, args.seed, args.imbalance)
        made = make_digits(args.out, parameters, force=args.force, progress=_Progress())
    except KeyboardInterrupt:
        sys.exit("\nmake_digits: interrupted, nothing was left behind")
    except (OSError, ValueError) as error:
        sys.exit(f"make_digits: error: {error}")
    if made:
        print(f"{args.out}: {args.images} training and {args.val_images} validation images")
    else:
        print(f"{args.out} is complete already, nothing to do")


if __name__ == "__main__":
    main()
