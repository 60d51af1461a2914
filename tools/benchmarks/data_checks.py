"""What the checks of a training's annotation file cost, besides reading it.

python tools/benchmarks/data_checks.py [--images 118000] [--boxes 860000] [--repeats 3]

A made-up file with as many images, boxes and classes as COCO's training file. Timed in CPU seconds, since the checks
run on one core: the checks with and without masks, and counting what a built data set holds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lad.cli.data_checks import inspect_data
from lad.cli.loaders import loaders_of
from lad.datasets.coco_file import read_coco
from lad.datasets.coverage import content_of

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope

CLASSES = CocoDataset.METAINFO["classes"]
WIDTH, HEIGHT = 640, 480


def make_annotations(images: int, boxes: int) -> dict:
    """Boxes anywhere in the images, each with a polygon of four corners."""
    rng = np.random.default_rng(0)
    left, top = rng.uniform(0, 500, boxes).round(2), rng.uniform(0, 400, boxes).round(2)
    width, height = rng.uniform(1, WIDTH - 501, boxes).round(2), rng.uniform(1, HEIGHT - 401, boxes).round(2)
    image, category = rng.integers(1, images + 1, boxes), rng.integers(1, len(CLASSES) + 1, boxes)
    annotations = []
    for number, (x, y, w, h) in enumerate(np.stack([left, top, width, height], axis=1).tolist()):
        annotations.append(
            dict(
                id=number + 1,
                image_id=int(image[number]),
                category_id=int(category[number]),
                bbox=[x, y, w, h],
                area=w * h,
                iscrowd=0,
                segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
            )
        )
    return dict(
        images=[dict(id=k, file_name=f"{k}.jpg", width=WIDTH, height=HEIGHT) for k in range(1, images + 1)],
        annotations=annotations,
        categories=[dict(id=k, name=name) for k, name in enumerate(CLASSES, 1)],
    )


def config_of(file: Path, masks: bool) -> Config:
    """A training on a file."""
    dataset = dict(
        type="CocoDataset",
        ann_file=str(file),
        data_prefix=dict(img=str(file.parent)),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=[dict(type="LoadAnnotations", with_bbox=True, with_mask=masks)],
    )
    return Config(dict(train_dataloader=dict(dataset=dataset)))


def cpu_seconds(function: Callable[[], object], repeats: int) -> list[float]:
    """CPU time of each call."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    init_default_scope("mmdet")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.json"
        file.write_text(json.dumps(make_annotations(args.images, args.boxes)))
        times = {"reading": cpu_seconds(lambda: read_coco(file), args.repeats)}
        for name, masks in (("reading and checks", False), ("reading and checks, with masks", True)):
            loaders = loaders_of(config_of(file, masks))
            times[name] = cpu_seconds(lambda loaders=loaders: inspect_data(loaders), args.repeats)
        dataset = DATASETS.build(config_of(file, False).train_dataloader.dataset)
        times["counting what was built"] = cpu_seconds(lambda: content_of(dataset), args.repeats)
    for name, seconds in times.items():
        print(f"{name:32} {statistics.median(seconds):6.2f} s  ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
