"""Savings of each option that makes a frozen teacher cheaper, and how many assigned labels it and padding change.

python tools/benchmarks/teacher.py CONFIG CHECKPOINT [--images 64] [--repeats 5]

CONFIG is a detector's with a PAA head and its training data, for instance the demo's teacher.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import warnings

from lad.assignment.candidates import PAACandidates
from lad.assignment.paa import PAAReassignment
from lad.base.config import load_config
from lad.base.replace import replaced
from lad.exchange.paa_memory import to_image_index
from lad.networks.building import build_teacher
from lad.networks.frozen import FrozenTeacher

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from timing import alternate, ratio
from torch import Tensor

OPTIONS = {
    "as it is": dict(),
    "inference_mode": dict(inference_mode=True),
    "fuse": dict(fuse=True),
    "channels_last": dict(channels_last=True),
    "fuse, channels_last": dict(fuse=True, channels_last=True),
    "bfloat16": dict(bfloat16=True),
    "compile": dict(compile=True),
    "fuse, compile": dict(fuse=True, compile=True),
}


def positives(teacher: FrozenTeacher, inputs: Tensor, samples: SampleList) -> set[tuple[int, int]]:
    """The anchors that the teacher calls positive: image of the batch, and number in that image alone."""
    head = teacher.model.bbox_head
    metas = [sample.metainfo for sample in samples]
    outputs = teacher.run(inputs, samples, ["bbox_head"])["bbox_head"]
    found: set[tuple[int, int]] = set()
    reassign = head.reassign

    def remember(losses: Tensor, candidates: PAACandidates) -> PAAReassignment:
        assignment = reassign(losses, candidates)
        index = candidates.index[assignment.candidate[assignment.positive]].numpy()
        images, priors = np.divmod(index, len(candidates.grid.anchors))
        for image, meta in enumerate(metas):
            own = to_image_index(priors[images == image], candidates.grid, meta["pad_shape"])
            found.update((image, int(number)) for number in own)
        return assignment

    with replaced(head, "reassign", remember), torch.no_grad():
        head.loss_by_feat(*outputs, [sample.gt_instances for sample in samples], metas)
    return found


def differing(wanted: list[set], got: list[set]) -> str:
    """Number of positives in one of two assignments only."""
    changed = sum(len(a ^ b) for a, b in zip(wanted, got, strict=True))
    return f"{changed} of {sum(map(len, wanted))} positives differ"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    init_default_scope("mmdet")
    torch.set_num_threads(args.threads)
    cfg = load_config(args.config)
    cfg.model.bbox_head.type = "BatchedPAAHead"
    student = MODELS.build(copy.deepcopy(cfg.model))
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    batches = []
    for data in loader:
        prepared = student.data_preprocessor(data, True)
        batches.append((prepared["inputs"], prepared["data_samples"]))
        if sum(len(samples) for _, samples in batches) >= args.images:
            break

    def build(speed: dict) -> FrozenTeacher:
        return build_teacher(dict(copy.deepcopy(cfg.model), checkpoint=args.checkpoint, speed=speed), student)

    teachers = {name: build(OPTIONS[name]) for name in dict.fromkeys(["as it is", *args.only])}
    inputs, samples = batches[0]
    seconds = alternate(
        {
            name: lambda teacher=teacher: teacher.run(inputs, samples, ["bbox_head"])
            for name, teacher in teachers.items()
        },
        args.repeats * 2,
        warmup=2,
    )
    plain = seconds["as it is"]
    print(
        f"teacher forward, {len(samples)} images of {tuple(inputs.shape[2:])}: {statistics.median(plain):.4f} s"
    )
    wanted = [positives(teachers["as it is"], *batch) for batch in batches]
    for name, teacher in teachers.items():
        got = [positives(teacher, *batch) for batch in batches]
        print(f"  {name:20s} {ratio(plain, seconds[name])}   {differing(wanted, got)}")
    print("the same images in a batch that larger ones make larger, as a remembered teacher does not notice")
    for pixels in (32, 64, 128):
        padded = [
            (torch.nn.functional.pad(images, (0, pixels, 0, pixels)), samples) for images, samples in batches
        ]
        got = [positives(teachers["as it is"], *batch) for batch in padded]
        print(f"  {pixels:3d} pixels more on two sides   {differing(wanted, got)}")


if __name__ == "__main__":
    main()
