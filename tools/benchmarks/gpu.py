"""Time and memory of training steps at COCO's size: distillation beside plain training and MMDetection's LAD.

python tools/benchmarks/gpu.py [--size 800 1333] [--batch-size 2] [--objects 7] [--repeats 10] [--only lad ...] [--amp]

Each step is forward, losses and backward of a COCO config, without the optimizer, on an accelerator where there is one.
Weights and images are random; no checkpoint, no data set and no network is needed. The steps are timed in turn, and
each is compared with that which it is to beat or to come near.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lad  # noqa: F401  registers the methods
from lad.analysis.profiling.building import build_offline
from lad.base.config import detector_config, load_config

import torch
from faster_rcnn import random_batch, total
from mmdet.structures import SampleList
from mmengine.config import ConfigDict
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from timing import alternate, ratio
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Case:
    """A step that is timed.

    Attributes:
        title: Displayed name.
        config: Of this project, or of MMDetection.
        beside: The case that it is compared with; empty for none.
        plain: Whether the config's student alone is trained.
    """

    title: str
    config: str
    beside: str = ""
    plain: bool = False


LAD = "configs/lad/lad_paa-r50_paa-r101_fpn_1x_coco.py"
FASTER = "configs/faster_rcnn/frcnn-all_faster-rcnn-r50_faster-rcnn-r101_fpn_1x_coco.py"
PKD = "configs/feature/pkd_faster-rcnn-r50_faster-rcnn-r101_fpn_2x_coco.py"
CASES = {
    "paa": Case("PAA-R50 alone, MMDetection's head", "mmdet::paa/paa_r50_fpn_1x_coco.py"),
    "lad": Case("PAA-R50, LAD of PAA-R101", LAD, "mmdet-lad"),
    "mmdet-lad": Case(
        "PAA-R50, MMDetection's LAD of PAA-R101", "mmdet::lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py", "paa"
    ),
    "colad": Case("PAA-R50, CoLAD with PAA-R101", "colad", "paa"),
    "faster": Case("Faster R-CNN-R50 alone", FASTER, plain=True),
    "faster-all": Case("Faster R-CNN-R50, all parts of Chen et al. of R101", FASTER, "faster"),
    "pkd": Case("Faster R-CNN-R50, PKD of R101", PKD, "faster"),
}


def co_learning() -> dict:
    """CoLAD of a PAA-R50 and a PAA-R101, which no config of COCO has without COP heads."""
    small = detector_config(load_config(str(ROOT / LAD)).model.student, "small")
    big = copy.deepcopy(small)
    big.backbone.depth = 101
    return dict(
        type="DistillationDetector",
        networks=dict(small=small, big=big),
        deploy="small",
        methods=[dict(type="CoLearningAssignment", switch=dict(type="StdMeanSwitch", per="gt_level"))],
    )


def build(case: Case, folder: Path) -> nn.Module:
    """Build a case's detector in training mode; teachers have random weights."""
    if case.config == "colad":
        model = co_learning()
    else:
        model = load_config(case.config if "::" in case.config else str(ROOT / case.config)).model
    if case.plain:
        model = detector_config(model.student, "student")
    if model.get("teacher_ckpt"):
        model.teacher_ckpt = _teacher_of_mmdetections_lad(model, folder)
    detector, _ = build_offline(model, random_teacher=True)
    detector.train()  # that of MMDetection's LAD returns nothing
    return detector


def _teacher_of_mmdetections_lad(model: ConfigDict, folder: Path) -> str:
    """A file of random weights for the detector that MMDetection builds of the keys with ``teacher_``."""
    own = {key.removeprefix("teacher_"): model[key] for key in list(model) if key.startswith("teacher_")}
    own.pop("ckpt")
    config = {**{key: value for key, value in model.items() if not key.startswith("teacher_")}, **own}
    config |= dict(type="PAA", bbox_head={**config["bbox_head"], "type": "PAAHead"})
    file = folder / "teacher.pth"
    torch.save(dict(state_dict=build_offline(config)[0].state_dict()), file)
    return str(file)


def step(model: nn.Module, batch: tuple[Tensor, SampleList], amp: bool) -> Callable[[], None]:
    """A training step without the optimizer, whose end is waited for."""
    device = batch[0].device.type
    dtype = torch.float16 if device == "cuda" else torch.bfloat16

    def run() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype) if amp else contextlib.nullcontext():
            loss = total(model.loss(batch[0], copy.deepcopy(batch[1])))
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def peak_memory(run: Callable[[], None]) -> float | None:
    """Peak memory of a step in GiB; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 2**30


def main() -> None:
    """Time the steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1333], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--objects", type=int, default=7, help="an image (COCO's mean)")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    parser.add_argument("--device", default=None, help="by default an accelerator if there is one")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    init_default_scope("mmdet")
    device = args.device or get_device()
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    # Padded to the stride of the coarsest level, as MMDetection's preprocessors pad.
    height, width = ((side + 31) // 32 * 32 for side in args.size)
    torch.manual_seed(0)
    inputs, samples = random_batch(args.batch_size, (height, width), args.objects, 80)
    batch = inputs.to(device), [sample.to(device) for sample in samples]
    print(
        f"{name}, torch {torch.__version__}: {args.batch_size} images of {height}x{width}, {args.objects} objects each"
    )
    tasks, memory = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for key in args.only:
            tasks[key] = step(build(CASES[key], Path(folder)).to(device), batch, args.amp)
    for key, task in tasks.items():
        task()
        gc.collect()
        memory[key] = peak_memory(task)
    seconds = alternate(tasks, args.repeats)
    for key in args.only:
        case, own = CASES[key], seconds[key]
        line = f"  {case.title:<52} {ratio(own, own).slow:8.4f} s"
        if memory[key] is not None:
            line += f"  peak {memory[key]:6.2f} GiB with all detectors loaded"
        if case.beside in seconds:
            line += f"  {ratio(own, seconds[case.beside])} that of {CASES[case.beside].title}"
        print(line)


if __name__ == "__main__":
    main()
