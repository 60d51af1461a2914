"""Reproduce a table of results: train every entry of a suite, then report.

SUITE is the name of a file in configs/benchmarks, or a path to such a file.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path

from lad.cli.messages import one_line_errors
from lad.cli.options import add_hours
from suites import overview
from suites.archive import read_archive
from suites.archiving import archive_results
from suites.plan import Options
from suites.records import read_records
from suites.report import write_report
from suites.resampling import REPLICATES
from suites.results import summarise
from suites.runner import RECORDS, SuiteRunner
from suites.stale import known_results
from suites.suite import Suite
from suites.suite_file import load_suite

from rich.console import Console
from rich.markdown import Markdown

WORK_DIR = Path("work_dirs/benchmark")
SUITES = Path(__file__).resolve().parents[1] / "configs" / "benchmarks"


def at_least_one(text: str) -> int:
    """Parse a number of jobs or replicates."""
    number = int(text) if text.lstrip("-").isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return number


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and evaluate what is not recorded yet; start again to go on")
    run.add_argument(
        "--jobs", type=at_least_one, default=1, help="trainings at a time, one thread each if several"
    )
    run.add_argument(
        "--only", nargs="+", default=[], metavar="ENTRY", help="these entries and what they need"
    )
    run.add_argument("--seeds", nargs="+", type=int, default=[], metavar="SEED", help="these seeds")
    run.add_argument(
        "--rerun-changed",
        action="store_true",
        help="train again what was trained with another config (the old folders are kept)",
    )
    add_hours(run, "; the most informative runs first (exit code 3 if some are left)")
    report = commands.add_parser("report", help="table, verdicts and plots of what is recorded")
    report.add_argument("--out", type=Path, metavar="FILE.md", help="write the report there too")
    report.add_argument("--replicates", type=at_least_one, default=REPLICATES, help="of the bootstrap")
    archive = commands.add_parser(
        "archive", help="add what is recorded to the results beside the suite's file, to be committed"
    )
    claims = commands.add_parser("claims", help="one table of the claims of several suites")
    claims.add_argument(
        "suites", metavar="SUITE", nargs="*", help="names or files; by default all archived ones"
    )
    claims.add_argument(
        "--out",
        type=Path,
        metavar="PAGE.md",
        help=f"write it there, between '{overview.BEGIN}' and '{overview.END}'",
    )
    claims.add_argument("--work-dir", type=Path, default=WORK_DIR)
    for command in (run, report):
        command.add_argument(
            "--without-archive", action="store_true", help="as if no results lay beside the suite's file"
        )
    for command in (run, report, archive):
        command.add_argument("suite", metavar="SUITE", help="name in configs/benchmarks, or a YAML file")
        command.add_argument("--work-dir", type=Path, default=WORK_DIR)
    return parser.parse_args()


def find_suite(name: str) -> Suite:
    """Read a suite by its name or its file."""
    return load_suite(name if name.endswith((".yaml", ".yml")) else SUITES / f"{name}.yaml")


def report(suite: Suite, root: Path, args: argparse.Namespace) -> None:
    """Write the report of a suite and print its text."""
    archive = {} if args.without_archive else read_archive(suite.archive)
    records, stale = known_results(suite, root, read_records(root / RECORDS), archive, args.replicates)
    summary = summarise(suite, records, root, args.replicates)
    command = ["python", "tools/benchmark.py", "run", args.suite]
    if args.work_dir != WORK_DIR:
        command += ["--work-dir", str(args.work_dir)]
    for file in [root / "report.md", *([args.out] if args.out else [])]:
        files = write_report(summary, file, shlex.join(command), stale)
    text = files[0].read_text()
    console = Console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        print(text)
    print(f"written: {', '.join(map(str, files))}")


def claims(args: argparse.Namespace) -> None:
    """Print the claims of suites, or write them into a page."""
    suites = [find_suite(name) for name in args.suites]
    if not suites:
        known = [load_suite(file) for file in sorted(SUITES.glob("*.yaml"))]
        suites = [suite for suite in known if suite.archive is not None and suite.archive.is_file()]
    summaries, stale = [], []
    for suite in suites:
        root = args.work_dir / suite.name
        records, old = known_results(suite, root, read_records(root / RECORDS), read_archive(suite.archive))
        summaries.append(summarise(suite, records, root))
        stale.append(old)
    table = overview.claims_table(summaries, stale)
    if args.out is None:
        print(table)
        return
    overview.write_into(args.out, table)
    print(f"written: {args.out}")


def archive(suite: Suite, root: Path) -> None:
    """Archive the results of a work_dir and print what was archived."""
    records = read_records(root / RECORDS)
    if not records:
        print(f"nothing is recorded in {root / RECORDS}; `run` the suite first")
        return
    outcome = archive_results(suite, root, records)
    for key, reason in outcome.left_out.items():
        print(f"left out: {key.row} seed {key.seed}: {reason}")
    print(f"{len(outcome.added)} results added to {suite.archive}, which has {outcome.total}")


def main() -> None:
    args = parse_args()

    def stop(*_: object) -> None:
        # Once is enough: the commands that run are waited for.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with one_line_errors():
        if args.command == "claims":
            claims(args)
            return
        suite = find_suite(args.suite)
        root = args.work_dir / suite.name
        try:
            if args.command == "report":
                report(suite, root, args)
            elif args.command == "archive":
                archive(suite, root)
            else:
                options = Options(
                    args.only,
                    args.seeds,
                    args.jobs,
                    rerun_changed=args.rerun_changed,
                    use_archive=not args.without_archive,
                    hours=args.hours,
                )
                sys.exit(SuiteRunner(suite, root, options).run())
        except KeyboardInterrupt:  # while it reads: nothing runs yet
            sys.exit(130)


if __name__ == "__main__":
    main()
