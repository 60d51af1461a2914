"""List everything that is wrong with the data of a config, or with a COCO annotation file and its images.

python tools/check_dataset.py CONFIG
python tools/check_dataset.py --json annotations/train.json --images images/train

Exit code: 0 nothing is wrong, 1 something is (a line each on the standard output), 2 nothing could be checked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lad.base.config import load_config
from lad.cli.checks import CocoData, coco_data, datasets_of
from lad.cli.messages import one_line_errors
from lad.datasets.checking import Problem, check_coco, image_problems, read_coco, summary
from lad.errors import ConfigError

from mmengine.config import DictAction
from mmengine.registry import init_default_scope
from mmengine.utils import ProgressBar

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "config", nargs="?", help="config whose training, validation and test data are checked"
    )
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    parser.add_argument("--json", metavar="FILE", help="a COCO annotation file, instead of a config")
    parser.add_argument("--images", metavar="FOLDER", help="the folder of its images (default: not checked)")
    parser.add_argument("--no-images", action="store_true", help="read the annotations alone")
    parser.add_argument("--workers", type=int, default=4, help="images that are decoded at once")
    return parser.parse_args()


def data_of_config(path: str, options: dict | None) -> list[CocoData]:
    """The data sets of a config, each once; those that cannot be checked are named on the error output."""
    cfg = load_config(path)
    cfg.merge_from_dict(options or {})
    init_default_scope(cfg.get("default_scope", "mmdet"))
    found: dict[tuple[Path, Path], CocoData] = {}
    for loader in LOADERS:
        for dataset in datasets_of((cfg.get(loader) or {}).get("dataset")):
            data = coco_data(dataset)
            if data is None:
                print(
                    f"{loader}: {dataset.get('type')} is no local COCO data set: not checked", file=sys.stderr
                )
            else:
                found.setdefault((data.annotations, data.images), data)
    if not found:
        raise ConfigError(f"{path} has no local COCO data set: name files with --json and --images.")
    return list(found.values())


def problems_of(data: CocoData, images: bool, workers: int) -> Iterator[Problem]:
    """Everything that is wrong with one data set; images with a progress bar on the error output."""
    content, problems = read_coco(data.annotations)
    yield from problems
    if content is None:
        return
    yield from check_coco(content, str(data.annotations), data.classes)
    if not images or not content["images"]:
        return
    if not data.images.is_dir():
        yield Problem("missing_folder", str(data.images), "", "there is no such image folder", fatal=True)
        return
    print(f"{len(content['images'])} images of {data.annotations}", file=sys.stderr)
    bar = ProgressBar(len(content["images"]), file=sys.stderr)
    step = max(1, len(content["images"]) // 200)
    # Threads: decoders let go of the interpreter's lock.
    with ThreadPoolExecutor(max(1, workers)) as pool:
        checked = pool.map(lambda image: list(image_problems(image, data.images)), content["images"])
        for number, found in enumerate(checked, 1):
            if number % step == 0:
                bar.update(step)
            yield from found
    print(file=sys.stderr)


def main() -> None:
    args = parse_args()
    with one_line_errors():
        if (args.config is None) == (args.json is None):
            raise ConfigError("name either a config or an annotation file (--json FILE --images FOLDER).")
        if args.config is not None:
            checked = data_of_config(args.config, args.cfg_options)
        else:
            checked = [CocoData(Path(args.json), Path(args.images or "."), None)]
        images = not args.no_images and (args.json is None or args.images is not None)
        found = []
        for data in checked:
            for problem in problems_of(data, images, args.workers):
                print(problem)
                found.append(problem)
    files = f"{len(checked)} annotation file{'s' if len(checked) > 1 else ''}"
    print(
        f"{len(found)} problems in {files}: {summary(found)}" if found else f"no problems in {files}",
        file=sys.stderr,
    )
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
