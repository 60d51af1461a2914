"""Plot the losses, the shares of objects that networks taught and the mAP of one or several runs.

MMEngine's logs are read; a run that was interrupted and resumed is one curve.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lad.analysis.pictures.curves import FORMATS, choose_keys, draw_curves
from lad.analysis.training_logs import read_runs
from lad.cli.messages import one_line_errors
from lad.errors import ConfigError, DataError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work_dirs", nargs="+", metavar="WORK_DIR", help="folder of a run of tools/train.py")
    parser.add_argument(
        "--keys",
        nargs="+",
        metavar="KEY",
        help="what to plot, e.g. loss '*loss_cls' lr coco/bbox_mAP_50 (default: losses, shares, mAP)",
    )
    parser.add_argument(
        "--out", default="losses.png", metavar="FILE", help=".png, .pdf or .svg (default: losses.png)"
    )
    parser.add_argument(
        "--smooth",
        nargs="?",
        type=int,
        const=5,
        default=1,
        metavar="N",
        help="running mean over N logged points, N odd (5 if left out); the points themselves are pale",
    )
    parser.add_argument("--by-epoch", action="store_true", help="count epochs instead of iterations")
    args = parser.parse_args()
    if args.smooth < 1 or args.smooth % 2 == 0:
        parser.error(f"--smooth must be odd and at least 1, got {args.smooth}")
    return args


def main() -> None:
    args = parse_args()
    with one_line_errors():
        if Path(args.out).suffix not in FORMATS:
            raise ConfigError(f"--out must end in {', '.join(FORMATS)}, got {args.out!r}.")
        runs = read_runs(args.work_dirs)
        keys = choose_keys(runs, args.keys)
        if not keys:
            raise DataError(
                f"nothing to plot in {', '.join(args.work_dirs)}: no losses, shares or mAP are logged."
            )
        draw_curves(runs, keys, args.out, smooth=args.smooth, by_epoch=args.by_epoch)
        print(f"{args.out}: {', '.join(keys)}")


if __name__ == "__main__":
    main()
