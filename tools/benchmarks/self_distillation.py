"""Cost of a step of self-distillation beside a plain step and the forward and backward passes of the exits.

python tools/benchmarks/self_distillation.py [--only retinanet] [--repeats 15] [--cpu-time] [--keep-memory]

The step with the method is compared with what cannot be saved: the network's plain step, plus a forward and backward
pass of each exit's neck and head with its own loss, on maps that are given. `exits` is the step of the same detector
without the method. Untrained networks of the project's own configs on random images of 320x240, 8 at a time with 14
objects each.
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from lad.analysis.profiling import build_offline
from lad.base.config import load_config
from lad.detectors.distillation import DistillationDetector

import torch
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from seams import make_batch
from timing import alternate, keep_freed_memory, ratio

ROOT = Path(__file__).parents[2]
CONFIGS = {
    "retinanet": "configs/together/byot_retinanet-r18-c16_retinanet-r18-c16_fpn_bccd.py",
    "retinanet-digits": "configs/together/byot_retinanet-r18-c16_retinanet-r18-c16_fpn_digits.py",
    "retinanet-r50": "configs/together/byot_retinanet-r50_retinanet-r50_fpn_1x_coco.py",
}


def bench(path: str, repeats: int, clock: Callable[[], float]) -> None:
    """One config: a step with the method against a plain step plus the exits' passes."""
    model = load_config(str(ROOT / path)).model
    detector, _ = build_offline(model)
    alone, _ = build_offline({**copy.deepcopy(model.to_dict()), "methods": []})
    assert isinstance(detector, DistillationDetector)
    for each in (detector, alone):
        each.train()
    network = detector.student
    exits = {name: own for name, own in detector.learners.items() if "." in name}
    images, samples = make_batch(8, 14, network.bbox_head.num_classes)
    with torch.no_grad():
        maps = network.backbone(images)

    def step(trained: torch.nn.Module) -> None:
        trained.zero_grad(set_to_none=True)
        total, _ = detector.parse_losses(trained.loss(images, samples))
        total.backward()

    def pass_of_exits() -> None:
        leaves = [each.detach().requires_grad_() for each in maps]
        losses = {}
        for name, exit_ in exits.items():
            exit_.zero_grad(set_to_none=True)
            with exit_.backbone.sharing(leaves):
                losses.update({f"{name}.{key}": value for key, value in exit_.loss(images, samples).items()})
        detector.parse_losses(losses)[0].backward()

    seconds = alternate(
        {
            "plain": lambda: step(network),
            "passes": pass_of_exits,
            "exits": lambda: step(alone),
            "method": lambda: step(detector),
        },
        repeats,
        warmup=2,
        clock=clock,
    )
    floor = [a + b for a, b in zip(seconds["plain"], seconds["passes"], strict=True)]
    seconds["plain + passes"] = floor
    for slow, fast in (("exits", "plain + passes"), ("method", "plain + passes"), ("method", "exits")):
        result = ratio(seconds[slow], seconds[fast])
        # On a busy machine the fastest repeats are those that nothing else delayed.
        fastest = min(seconds[slow]) / min(seconds[fast])
        print(
            f"  {slow:6s} / {fast:14s} {result.slow:.3f} s / {result.fast:.3f} s  {result}; fastest {fastest:.3f}x",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CONFIGS, default=["retinanet"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="of this process, on a machine with others")
    parser.add_argument("--keep-memory", action="store_true", help="the C library keeps what is freed")
    args = parser.parse_args()
    if args.keep_memory:
        keep_freed_memory()
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)  # MMEngine lists every weight that it initialises
    init_default_scope("mmdet")
    torch.set_num_threads(args.threads)
    MessageHub.get_current_instance().update_info("epoch", 100)
    for name in args.only:
        print(f"{name}: seconds of a step against plain step + passes of its exits")
        bench(CONFIGS[name], args.repeats, time.process_time if args.cpu_time else time.perf_counter)


if __name__ == "__main__":
    main()
