"""Cost of a step of mutual learning beside the sum of the steps of its networks alone.

python tools/benchmarks/mutual.py [CONFIG ...] [--repeats 11] [--threads 1] [--cpu-time] [--keep-memory]

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
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from lad.analysis.profiling.batch import input_shape, random_batch
from lad.analysis.profiling.building import build_offline
from lad.base.capture import levels_of
from lad.base.config import detector_config, load_config
from lad.base.replace import replaced
from lad.detectors import DistillationDetector
from lad.methods.base import Step

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from timing import alternate, keep_freed_memory, ratio
from torch import Tensor

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


def bench(path: str, repeats: int, images: int | None, objects: int, clock: Callable[[], float]) -> None:
    """One config: a mutual step against the sum of the steps of its networks."""
    cfg = load_config(str(ROOT / path))
    models = {name: alone(cfg.model, name) for name in cfg.model.networks}
    models |= {"mutual": cfg.model, "without": dict(cfg.model, methods=[])}
    images = images or cfg.train_dataloader.batch_size
    steps, detectors = {}, {}
    for name, model in models.items():
        detector, _ = build_offline(model)
        detectors[name] = detector
        wrapper = build_optim_wrapper(detector.train(), copy.deepcopy(cfg.optim_wrapper))
        batch = random_batch(images, input_shape(cfg), objects, num_classes=1)
        steps[name] = lambda detector=detector, wrapper=wrapper, batch=batch: detector.train_step(
            copy.deepcopy(batch), wrapper
        )
    seconds = alternate(steps, repeats, warmup=2, clock=clock)
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
    spent = share(
        detectors["mutual"], random_batch(images, input_shape(cfg), objects, num_classes=1), repeats
    )
    print(
        f"  {spent:.1%} of the CPU time of all else, without the optimizer: the terms and their gradients",
        flush=True,
    )


def share(detector: DistillationDetector, batch: dict, repeats: int) -> float:
    """The fastest CPU time of the method's terms and their gradients at the heads, over that of all else of a step.

    Without the optimizer. On a busy machine it is steadier than the ratio of two steps. Of RoI heads the terms alone:
    their gradients at the logits are small, and what lies before is passed once for all losses.
    """
    (method,) = detector.methods
    data = detector.data_preprocessor(copy.deepcopy(batch), True)
    joint_losses, own, whole = method.joint_losses, [], []

    def timed(steps: Mapping[str, Step]) -> dict[str, Tensor]:
        start = time.process_time()
        terms = joint_losses(steps)
        total = sum(value for name, value in terms.items() if "loss" in name)
        read = [
            tensor
            for name, step in steps.items()
            for module in method.modules_of(name)
            for tensor in levels_of(step.outputs.calls(module))
            if module == "bbox_head"
        ]
        if read:
            torch.autograd.grad(total, read, retain_graph=True, allow_unused=True)
        own.append(time.process_time() - start)
        return terms

    with replaced(method, "joint_losses", timed):
        for _ in range(repeats):
            start = time.process_time()
            total, _ = detector.parse_losses(
                detector.loss(data["inputs"], copy.deepcopy(data["data_samples"]))
            )
            total.backward()
            whole.append(time.process_time() - start)
    # The terms' gradients are in `whole` twice: once in `own`, once in the backward pass, which leaves about all else.
    return min(own) / (min(whole) - min(own))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", default=CONFIGS)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--images", type=int, help="of a batch (default: the config's)")
    parser.add_argument("--objects", type=int, default=14)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time of this process, which others disturb less"
    )
    parser.add_argument("--keep-memory", action="store_true", help="the C library keeps what is freed")
    args = parser.parse_args()
    if args.keep_memory:
        keep_freed_memory()
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore")
    init_default_scope("mmdet")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    clock = time.process_time if args.cpu_time else time.perf_counter
    print(
        f"torch {torch.__version__}, Python {sys.version.split()[0]}, {args.threads} threads"
        f"{', CPU time' if args.cpu_time else ''}"
    )
    for path in args.configs:
        print(f"{path}: a mutual step", flush=True)
        bench(path, args.repeats, args.images, args.objects, clock)


if __name__ == "__main__":
    main()
