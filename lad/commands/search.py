"""Search a config's numbers, such as a method's weight, on a part of its training images.

lad search CONFIG --space model.methods.0.loss_weight=log:0.1..10 --trials 20

Each trial trains the config on the rest of its training images, and is evaluated on that part: the validation data are
not read. Trainings that are below the median of the others are stopped early. An interrupted search goes on when the
same command is given again. It leaves search.md, the trials, and best.py, the config with the best values, which is
then trained on all training images and evaluated on the validation data once (--final).
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from lad.analysis.training_logs import read_scalars
from lad.base.config import load_config, merge_options
from lad.base.processes import locked
from lad.cli.config_settings import check_settings
from lad.cli.config_types import check_types
from lad.cli.messages import one_line_errors
from lad.cli.options import add_config_options, add_hours
from lad.errors import ConfigError, DataError
from lad.search import Search, SearchSettings, parse_parameter
from lad.search.folder import BEST, TABLE
from lad.search.space import with_examples
from lad.search.trials import train

#: Exit code of a start after which trials are left.
UNFINISHED = 3


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file, or PACKAGE::PATH of an installed package")
    parser.add_argument(
        "--space",
        nargs="+",
        action="extend",
        required=True,
        metavar="KEY=VALUES",
        help="a setting and its values: 0.1..10, log:0.01..100, 1..8 (whole numbers) or hard,soft",
    )
    parser.add_argument("--trials", type=int, default=20, help="number of trainings (default: 20)")
    parser.add_argument(
        "--share", type=float, default=0.2, help="of the training images that are evaluated on (default: 0.2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split, the trainings and the search")
    parser.add_argument(
        "--metric", default="coco/bbox_mAP", help="that is to be large (default: coco/bbox_mAP)"
    )
    add_hours(parser, " (exit code 3)")
    parser.add_argument(
        "--final",
        action="store_true",
        help="train best.py at the end and print its result on the validation data",
    )
    parser.add_argument("--work-dir", type=Path, help="default: work_dirs/search/CONFIG_NAME")
    add_config_options(parser)
    return parser.parse_args()


def settings_of(args: argparse.Namespace) -> SearchSettings:
    """The settings that the arguments describe.

    Raises:
        ConfigError: a value is out of range, or a setting is searched twice.
    """
    parameters = tuple(map(parse_parameter, args.space))
    keys = [one.key for one in parameters]
    if len(set(keys)) < len(keys):
        raise ConfigError(f"--space names {max(keys, key=keys.count)!r} twice.")
    if args.trials < 1:
        raise ConfigError(f"--trials must be 1 at least, got {args.trials}.")
    if not 0 < args.share < 1:
        raise ConfigError(f"--share must be between 0 and 1, got {args.share}.")
    return SearchSettings(parameters, args.trials, args.share, args.seed, args.metric, args.hours)


def final(search: Search) -> None:
    """Train the best config on all training images, and print what it gives on the validation data."""
    assert search.best is not None  # a finished search has one
    # Another best one is another training.
    folder = search.work_dir / "final" / f"{search.best.number:03d}"
    metric = search.settings.metric
    with locked(folder) as lock:
        outcome = train(search.work_dir / BEST, folder, metric, search.processes, lock, lambda *_: True)
    if outcome.stopped:
        print("stopping; the same command continues from here")
        sys.exit(130)
    if outcome.error is not None:
        raise DataError(f"{folder}: {outcome.error}")
    value = read_scalars(folder).curves[metric].values[-1]
    print(f"on the validation data, trained on all training images: {metric} {value:.4f}")


def main() -> None:
    """Run ``lad search``."""
    args = parse_args()
    with one_line_errors():
        settings = settings_of(args)
        cfg = load_config(args.config)
        merge_options(cfg, args.cfg_options or {}, "--cfg-options")
        tried = with_examples(cfg, settings.parameters)
        check_types(tried)
        check_settings(tried)
        work_dir = args.work_dir or Path("work_dirs/search") / Path(args.config).stem
        search = Search(cfg, settings, work_dir)

        def stop(*_: object) -> None:
            search.stop()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        finished = search.run()
        if search.processes.stopped:
            print("stopping; the same command continues from here")
            sys.exit(130)
        if search.best is not None:
            print((work_dir / TABLE).read_text())
            print(f"best: {work_dir / BEST}")
        if not finished:
            print("the time given is used up; the same command continues from here")
            sys.exit(UNFINISHED)
        if args.final:
            final(search)
        else:
            print(f"next: python tools/train.py {work_dir / BEST}")


if __name__ == "__main__":
    main()
