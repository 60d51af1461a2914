"""Cost of a step of mutual learning beside the sum of the steps of its networks alone.

python tools/benchmarks/mutual.py [CONFIG ...] [--repeats 11] [--threads 1]

A step is the loss, its backward pass and the optimizer. Where networks have exits, the sum is that of each network with
its exits and without the method. A step is compared with one of the same networks without the method too, which tells
what the method costs from what training several networks at once does. Untrained networks of the project's own configs
on random images, all tasks in turn.
"""

from __future__ import annotations

import argparse
import copy
import logging
import sys
import warnings
from pathlib import Path

from lad.analysis.profiling.batch import input_shape, random_batch
from lad.analysis.profiling.building import build_offline
from lad.base.config import detector_config, load_config

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from timing import alternate, ratio

ROOT = Path(__file__).parents[2]
CONFIGS = (
    "configs/together/mutual_retinanet-r18-c16_retinanet-r18_fpn_bccd.py",
    "configs/together/dcm_retinanet-r18-c16_retinanet-r18_fpn_bccd.py",
    "configs/together/mutual_faster-rcnn-r18-c16_faster-rcnn-r18_fpn_bccd.py",
)


def alone(model: dict, name: str) -> dict:
    """The config of one network of a mutual learning, with its exits and without the others."""
    exits = (model.get("exits") or {}).get(name)
    if not exits:
        return detector_config(copy.deepcopy(model["networks"][name]), name)
    return dict(type=model["type"], student=copy.deepcopy(model["networks"][name]), exits=dict(student=exits))


def bench(path: str, repeats: int, images: int | None, objects: int) -> None:
    """One config: a mutual step against the sum of the steps of its networks."""
    cfg = load_config(str(ROOT / path))
    models = {name: alone(cfg.model, name) for name in cfg.model.networks}
    models |= {"mutual": cfg.model, "without": dict(cfg.model, methods=[])}
    images = images or cfg.train_dataloader.batch_size
    steps = {}
    for name, model in models.items():
        detector, _ = build_offline(model)
        wrapper = build_optim_wrapper(detector.train(), copy.deepcopy(cfg.optim_wrapper))
        batch = random_batch(images, input_shape(cfg), objects, num_classes=1)
        steps[name] = lambda detector=detector, wrapper=wrapper, batch=batch: detector.train_step(
            copy.deepcopy(batch), wrapper
        )
    seconds = alternate(steps, repeats, warmup=2)
    floor = [sum(each) for each in zip(*(seconds[name] for name in cfg.model.networks), strict=True)]
    for title, other in (
        ("sum of its networks' steps", floor),
        ("same networks without the method", seconds["without"]),
    ):
        result = ratio(seconds["mutual"], other)
        # On a busy machine the fastest repeats are those that nothing else delayed.
        fastest = min(seconds["mutual"]) / min(other)
        print(
            f"  {result.slow:.3f} s / {result.fast:.3f} s  {result}, fastest {fastest:.3f}x: over the {title}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", default=CONFIGS)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--images", type=int, help="of a batch (default: the config's)")
    parser.add_argument("--objects", type=int, default=14)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore")
    init_default_scope("mmdet")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {args.threads} threads")
    for path in args.configs:
        print(f"{path}: a mutual step", flush=True)
        bench(path, args.repeats, args.images, args.objects)


if __name__ == "__main__":
    main()
