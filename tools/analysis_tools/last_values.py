"""Print the mean of logged losses, shares and mAP over the last epochs of one or several runs, and their scatter.

MMEngine's logs are read; a run that was interrupted and resumed is one run.
"""

from __future__ import annotations

import argparse

from lad.analysis.last_values import LastValue, last_values
from lad.analysis.pictures.curves import choose_keys
from lad.analysis.tables import text_table
from lad.analysis.training_logs import check_distinct, read_runs
from lad.cli.messages import one_line_errors
from lad.errors import DataError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work_dirs", nargs="+", metavar="WORK_DIR", help="folder of a run of tools/train.py")
    parser.add_argument(
        "--keys",
        nargs="+",
        metavar="KEY",
        help="what to average, e.g. loss '*loss_cls' (default: losses, shares, mAP)",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=1,
        metavar="N",
        help="how many of a run's last epochs count (default: 1)",
    )
    args = parser.parse_args()
    if args.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {args.epochs}")
    return args


def row(value: LastValue) -> tuple[str, ...]:
    """Cells of a line."""
    numbers = ["" if number is None else f"{number:.4g}" for number in (value.mean, value.deviation)]
    return (value.key, str(value.runs), *numbers)


def main() -> None:
    args = parse_args()
    with one_line_errors():
        check_distinct(args.work_dirs)
        runs = read_runs(args.work_dirs, predicts=False)
        keys = choose_keys(runs, args.keys)
        if not keys:
            raise DataError(f"no losses, shares or mAP are logged in {', '.join(args.work_dirs)}.")
        values = last_values(runs, keys, args.epochs)
    header = ("scalar", "runs", "mean", "sd over runs")
    print(text_table(header, map(row, values), right={1, 2, 3}))


if __name__ == "__main__":
    main()
