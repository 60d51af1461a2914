"""List everything that is wrong with the data of a config, or with a COCO annotation file and its images.

How often each class occurs in the training data, and which classes are rare, is on the error output.

lad check CONFIG
lad check --json annotations/train.json --images images/train
lad check --data data/mine

Exit code: 0 nothing is wrong, 1 something is (a line each on the standard output), 2 nothing could be checked.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from lad.analysis.tables import text_table
from lad.base.config import load_config, merge_options
from lad.cli.built_checks import build_datasets, built_problems, dropping_batch_sizes
from lad.cli.data_checks import DataReport, inspect_data
from lad.cli.loaders import loaders_of
from lad.cli.messages import one_line_errors
from lad.cli.options import add_config_options
from lad.datasets.coco_checks import check_coco
from lad.datasets.coco_file import AnnotationTable, read_coco
from lad.datasets.configured import CocoData
from lad.datasets.coverage import Coverage, expected_coverage
from lad.datasets.images import check_image, image_problems
from lad.datasets.layouts import find_data
from lad.datasets.problems import Problem, summary
from lad.datasets.tail import describe_tail
from lad.errors import ConfigError

from mmengine.registry import init_default_scope
from mmengine.utils import ProgressBar


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "config", nargs="?", help="config whose training, validation and test data are checked"
    )
    add_config_options(parser)
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="a folder in COCO's, YOLO's or Pascal VOC's layout, instead of a config",
    )
    parser.add_argument("--json", metavar="FILE", help="a COCO annotation file, instead of a config")
    parser.add_argument("--images", metavar="FOLDER", help="the folder of its images (default: not checked)")
    parser.add_argument("--no-images", action="store_true", help="read the annotations alone")
    parser.add_argument("--classes", type=int, default=40, help="how many classes the histogram shows")
    parser.add_argument("--workers", type=int, default=4, help="images that are decoded at once")
    return parser.parse_args()


def histogram(coverage: Coverage, limit: int) -> str:
    """Table of the classes' images and objects, the most frequent first; of more than ``limit`` the rarest ones.

    Beside them the objects of an epoch of class-balanced sampling.
    """
    pairs = zip(coverage.classes, coverage.balanced, strict=True)
    ordered = sorted(pairs, key=lambda pair: (-pair[0].images, -pair[0].objects))
    left_out = max(0, len(ordered) - limit)
    most = max((count.images for count, _ in ordered), default=0) or 1
    rows = [
        (
            count.name,
            str(count.images),
            str(count.objects),
            f"{balanced:.0f}",
            "#" * round(30 * count.images / most),
        )
        for count, balanced in ordered[left_out:]
    ]
    more = f"({left_out} more frequent classes)\n" if left_out else ""
    return more + text_table(["class", "images", "objects", "balanced", ""], rows, right={1, 2, 3})


def report_of_config(path: str, options: dict | None) -> DataReport:
    """Check the data sets of a config as training does; those that cannot be checked are named on the error output."""
    cfg = load_config(path)
    merge_options(cfg, options or {}, "--cfg-options")
    init_default_scope(cfg.get("default_scope", "mmdet"))
    loaders = loaders_of(cfg)
    report = inspect_data(loaders)
    for dataset in report.unchecked:
        print(f"{dataset}: not checked", file=sys.stderr)
    if not report.data:
        raise ConfigError(f"{path} has no local COCO data set: name files with --json and --images.")
    if report.fatal:
        return report
    present = [loader for loader in loaders if loader.is_present and all(loader.data)]
    # pycocotools prints, and the standard output is for problems.
    with contextlib.redirect_stdout(sys.stderr):
        built = build_datasets(cfg, [loader.name for loader in present])
    found = built_problems(built, present, report.files, dropping_batch_sizes(cfg))
    return replace(report, problems=[*report.problems, *found])


def report_of_file(path: Path, images: Path | None) -> DataReport:
    """Check an annotation file that is trained on with all its categories."""
    coverage = []
    content, problems = read_coco(path)
    if content is not None:
        table = AnnotationTable.of(content)
        problems = check_coco(content, str(path), table=table)
        if table is not None:
            coverage = [(path, expected_coverage(table, None))]
    if images is not None and not images.is_dir():
        problems.append(
            Problem("missing_folder", str(images), "", "there is no such image folder", fatal=True)
        )
    return DataReport(problems, coverage, [CocoData(path, images, None)], {}, [])


def report_of_folder(folder: Path, converted: Path) -> DataReport:
    """Check the training and validation data of a folder, whose YOLO or VOC annotations are converted first."""
    layout = find_data(folder, converted)
    reports = [report_of_file(split.annotations, split.images) for split in (layout.train, layout.val)]
    return DataReport(
        [problem for one in reports for problem in one.problems],
        [coverage for one in reports for coverage in one.coverage],
        [data for one in reports for data in one.data],
        {},
        [],
    )


def problems_of_images(data: CocoData, workers: int) -> Iterator[Problem]:
    """Everything that is wrong with the images of a data set, with a progress bar on the error output."""
    content, _ = read_coco(data.annotations, annotated=False, labelled=data.labelled)
    if content is None or not content["images"] or data.images is None or not data.images.is_dir():
        return
    folder = data.images
    print(f"{len(content['images'])} images of {data.annotations}", file=sys.stderr)
    bar = ProgressBar(len(content["images"]), file=sys.stderr)
    step = max(1, len(content["images"]) // 200)
    check = partial(check_image, flag=data.color_type, backend=data.imdecode_backend)
    # Threads: decoders let go of the interpreter's lock.
    with ThreadPoolExecutor(max(1, workers)) as pool:
        checked = pool.map(lambda image: list(image_problems(image, folder, check)), content["images"])
        for number, found in enumerate(checked, 1):
            if number % step == 0:
                bar.update(step)
            yield from found
    print(file=sys.stderr)


def main() -> None:
    """Run ``lad check``."""
    args = parse_args()
    with one_line_errors(), contextlib.ExitStack() as files_for_now:
        if sum(one is not None for one in (args.config, args.json, args.data)) != 1:
            raise ConfigError(
                "name either a config, a folder (--data FOLDER), or an annotation file (--json FILE --images FOLDER)."
            )
        if args.config is not None:
            report = report_of_config(args.config, args.cfg_options)
        elif args.data is not None:
            # Problems name the converted annotations by this path, and images by theirs.
            converted = Path(files_for_now.enter_context(tempfile.TemporaryDirectory()))
            report = report_of_folder(Path(args.data), converted)
        else:
            report = report_of_file(Path(args.json), None if args.images is None else Path(args.images))
        for path, coverage in report.coverage:
            print(f"{path}: {coverage}\n{histogram(coverage, args.classes)}", file=sys.stderr)
            print(f"{path}: {describe_tail(coverage.classes)}", file=sys.stderr)
        found = []
        images = not args.no_images and (args.json is None or args.images is not None)
        of_images = (problems_of_images(data, args.workers) for data in report.data if images)
        for problem in chain(report.problems, *of_images):
            print(problem)
            found.append(problem)
    files = f"{len(report.data)} annotation file{'s' if len(report.data) > 1 else ''}"
    print(
        f"{len(found)} problems in {files}: {summary(found)}" if found else f"no problems in {files}",
        file=sys.stderr,
    )
    sys.exit(1 if found else 0)
