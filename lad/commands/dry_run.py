"""Print what a config distils (modules, shapes, connectors, losses); writes nothing and trains nothing."""

from __future__ import annotations

import argparse

from lad.analysis.dry_run import describe_config
from lad.cli.arguments import add_arguments, read_config
from lad.cli.messages import config_errors, one_line_errors


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Run ``lad dry-run``, which is ``lad train --dry-run``."""
    args = parse_args()
    with one_line_errors():
        with config_errors():
            cfg = read_config(args)
        print(describe_config(cfg))
