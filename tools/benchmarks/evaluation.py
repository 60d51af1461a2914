"""COCO evaluation by pycocotools and by faster-coco-eval, in one run.

python tools/benchmarks/evaluation.py [--images 5000] [--detections 100] [--classes 80] [--repeats 3]

A made-up validation set with as many objects as COCO has (about 7 an image) and a detector that finds most of them,
some twice, and fills up with false alarms. Timed are the evaluation alone (matching, accumulation, summary) and
MMDetection's whole metric, which writes the detections to a JSON file and reads it back, whatever evaluates. Both must
answer alike, or the program stops. The backends take turns, and take turns in going first; ratios are medians over
repeats, with their range. On a busy machine CPU time tells more than the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lad.evaluation.coco import faster_evaluator

import numpy as np
import torch
from mmdet.datasets.api_wrappers import COCO
from mmdet.registry import METRICS
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from pycocotools.cocoeval import COCOeval
from timing import alternate, ratio

HEIGHT, WIDTH = 480, 640
BACKENDS = ("pycocotools", "faster-coco-eval")


def make_ground_truth(images: int, classes: int, rng: np.random.Generator) -> dict:
    """Annotations as COCO has them: long tails of objects an image and of classes, areas of all sizes, some crowds."""
    counts = rng.geometric(1 / 8.3, images) - 1  # 7.3 on average; none in one image of eight
    total = int(counts.sum())
    frequency = 1 / np.arange(1, classes + 1)
    labels = rng.choice(classes, total, p=frequency / frequency.sum())
    extent = np.exp(rng.normal(np.log(60), 1.0, (total, 2))).clip(3, [WIDTH - 1, HEIGHT - 1])
    corner = rng.random((total, 2)) * (np.array([WIDTH, HEIGHT]) - extent)
    annotations = [
        dict(
            id=number + 1,
            image_id=int(image),
            category_id=int(labels[number]) + 1,
            bbox=[float(value) for value in (*corner[number], *extent[number])],
            area=float(extent[number].prod() * rng.uniform(0.4, 0.9)),  # of the mask, smaller than the box
            iscrowd=int(rng.random() < 0.012),
        )
        for number, image in enumerate(np.repeat(np.arange(images), counts))
    ]
    return dict(
        images=[dict(id=i, width=WIDTH, height=HEIGHT, file_name=f"{i}.jpg") for i in range(images)],
        categories=[dict(id=i + 1, name=f"class {i}") for i in range(classes)],
        annotations=annotations,
    )


def make_detections(truth: dict, count: int, classes: int, rng: np.random.Generator) -> list[dict]:
    """``count`` detections an image: objects found with errors, four of five once and half of them twice."""
    objects: dict[int, list[dict]] = {}
    for annotation in truth["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)
    samples = []
    for image in truth["images"]:
        own = objects.get(image["id"], [])
        boxes = np.array([annotation["bbox"] for annotation in own]).reshape(-1, 4)
        labels = np.array([annotation["category_id"] - 1 for annotation in own], dtype=int)
        index = np.concatenate(
            [np.flatnonzero(rng.random(len(own)) < 0.8), np.flatnonzero(rng.random(len(own)) < 0.5)]
        )[:count]
        found = boxes[index] + rng.normal(0, 0.1, (len(index), 4)) * np.tile(boxes[index, 2:], 2)
        noise = np.empty((count - len(index), 4))
        noise[:, :2] = rng.random((len(noise), 2)) * [WIDTH * 0.8, HEIGHT * 0.8]
        noise[:, 2:] = np.exp(rng.normal(np.log(60), 1.0, (len(noise), 2)))
        boxes = np.concatenate([found, noise])
        boxes[:, 2:] = boxes[:, :2] + boxes[:, 2:].clip(1)
        # False alarms are of the classes that are in the image half of the time: detectors mistake parts for wholes.
        alarms = rng.integers(0, classes, len(noise))
        if len(own):
            alarms = np.where(rng.random(len(noise)) < 0.5, rng.choice(labels, len(noise)), alarms)
        scores = np.concatenate([rng.beta(3, 2, len(index)), rng.beta(1, 8, len(noise))])
        instances = dict(
            bboxes=torch.from_numpy(boxes).float(),
            scores=torch.from_numpy(scores).float(),
            labels=torch.from_numpy(np.concatenate([labels[index], alarms])),
        )
        samples.append(dict(img_id=image["id"], ori_shape=(HEIGHT, WIDTH), pred_instances=instances))
    return samples


def evaluation_of(evaluator: type, truth: COCO, detections: COCO) -> Callable[[], np.ndarray]:
    """Matching, accumulation and summary as MMDetection runs them."""

    def run() -> np.ndarray:
        evaluation = evaluator(truth, detections, "bbox")
        evaluation.params.maxDets = [100, 300, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation.stats

    return run


def metric_of(backend: str, path: Path, samples: list[dict], classes: int) -> Callable[[], dict]:
    """The whole metric on recorded detections."""
    metric = METRICS.build(dict(type="CocoMetric", ann_file=str(path), backend=backend))
    metric.dataset_meta = dict(classes=[f"class {i}" for i in range(classes)])

    def run() -> dict:
        metric.process({}, samples)
        return metric.evaluate(len(samples))

    return run


def compare(title: str, tasks: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Any]:
    """Time both backends in turn, of every two repeats the one beginning one and the other the next; their answers."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    busy: dict[str, list[float]] = {name: [] for name in tasks}
    answers: dict[str, Any] = {}

    def answering(name: str) -> Callable[[], None]:
        def run() -> None:
            start = time.process_time()
            answers[name] = tasks[name]()
            busy[name].append(time.process_time() - start)

        return run

    for repeat in range(repeats):
        order = list(tasks) if repeat % 2 == 0 else list(reversed(tasks))
        with contextlib.redirect_stdout(io.StringIO()):
            # No warm-up: it would take minutes, and a first evaluation costs what the others do.
            once = alternate({name: answering(name) for name in order}, 1, warmup=0)
        for name, values in once.items():
            seconds[name] += values
    slow, fast = BACKENDS
    for unit, values in (("wall clock", seconds), ("CPU time", busy)):
        result = ratio(values[slow], values[fast])
        figures = f"{slow} {result.slow:7.2f} s  {fast} {result.fast:7.2f} s  {result}"
        print(f"  {title:20s} {unit:10s} {figures}", flush=True)
    return {name: answers[name] for name in tasks}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="of every image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    init_default_scope("mmdet")
    MMLogger.get_instance("evaluation", log_level="ERROR")
    logging.disable(logging.INFO)
    rng = np.random.default_rng(0)
    content = make_ground_truth(args.images, args.classes, rng)
    samples = make_detections(content, args.detections, args.classes, rng)
    print(
        f"{args.images} images, {len(content['annotations'])} objects, {args.images * args.detections} detections, "
        f"{args.classes} classes; Python {sys.version.split()[0]}, numpy {np.__version__}"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.json"
        path.write_text(json.dumps(content))
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(path))
            results = [
                dict(
                    image_id=sample["img_id"],
                    category_id=label + 1,
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    score=score,
                )
                for sample in samples
                for (x1, y1, x2, y2), score, label in zip(
                    *(value.tolist() for value in sample["pred_instances"].values()), strict=True
                )
            ]
            detections = truth.loadRes(results)
            evaluators = dict(zip(BACKENDS, (COCOeval, faster_evaluator()), strict=True))
            alone = {name: evaluation_of(kind, truth, detections) for name, kind in evaluators.items()}
        slow, fast = compare("evaluation alone", alone, args.repeats).values()
        np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-6)
        print(
            f"  mAP {slow[0]:.6f} by both; largest difference of the twelve numbers {abs(fast - slow).max():.1e}"
        )
        with contextlib.redirect_stdout(io.StringIO()):
            whole = {name: metric_of(name, path, samples, args.classes) for name in BACKENDS}
        slow, fast = compare("MMDetection's metric", whole, args.repeats).values()
        assert slow == fast, (slow, fast)


if __name__ == "__main__":
    main()
