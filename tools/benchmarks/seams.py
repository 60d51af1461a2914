"""Cost of replaying a teacher's label assignment beside the student's step and the teacher's forward.

The whole LAD step is compared with a plain step plus the teacher's forward; a busy machine drowns the difference in
noise, so the part that differs is measured alone too: the student's loss on given outputs, with and without replay of
the same outputs as a teacher's, so that the assigner does the same work.

python tools/benchmarks/seams.py [--only tood rtmdet yolox ddod] [--repeats 15]

Untrained networks of the project's own configs on random images of 320x240, 8 at a time with 14 objects each.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import warnings
from pathlib import Path

from lad.base.config import detector_config, load_config
from lad.networks.building import without_pretraining

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample, SampleList
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from timing import alternate, ratio

ROOT = Path(__file__).parents[2]
CONFIGS = {
    "tood": "configs/tood/lad_tood-r18-c16_tood-r18_fpn_bccd.py",
    "rtmdet": "configs/rtmdet/lad_rtmdet-nano_rtmdet-small_bccd.py",
    "yolox": "configs/yolox/lad_yolox-nano_yolox-mini_digits.py",
    "yolox taught by rtmdet": "configs/yolox/lad_yolox-nano_rtmdet-mini_digits.py",
    "ddod": "configs/ddod/lad_ddod-r18-c16_ddod-r18-c32_fpn_digits.py",
}
SIZE = (256, 320)  # 240 is padded to a multiple of 32
SHAPE = (240, 320)


def make_batch(images: int, objects: int, num_classes: int) -> tuple[torch.Tensor, SampleList]:
    """Random images with random boxes of 16 to 64 pixels."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(images, 3, *SIZE, generator=generator)
    samples = []
    for number in range(images):
        corner = torch.rand(objects, 2, generator=generator) * torch.tensor(
            [SHAPE[1] - 64.0, SHAPE[0] - 64.0]
        )
        extent = torch.rand(objects, 2, generator=generator) * 48 + 16
        sample = DetDataSample(
            metainfo=dict(img_id=number, img_shape=SHAPE, pad_shape=SIZE, batch_input_shape=SIZE)
        )
        labels = torch.randint(0, num_classes, (objects,), generator=generator)
        sample.gt_instances = InstanceData(bboxes=torch.cat([corner, corner + extent], dim=1), labels=labels)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
        samples.append(sample)
    return inputs, samples


def bench(path: str, repeats: int, folder: Path) -> None:
    """One config: a LAD step in both modes against a plain step plus the teacher's forward."""
    model = load_config(str(ROOT / path)).model
    options = dict(speed=model.teacher.get("speed"), checkpoint=str(folder / "teacher.pth"))
    spec = {key: value for key, value in model.teacher.items() if key not in options}
    teacher = without_pretraining(detector_config(spec, "teacher"))
    torch.save(dict(state_dict=MODELS.build(copy.deepcopy(teacher)).state_dict()), options["checkpoint"])
    steps = {}
    for mode in ("hard", "soft"):
        model.teacher = dict(copy.deepcopy(teacher), **options)
        model.methods = [dict(type="LabelAssignmentDistillation", mode=mode)]
        steps[mode] = MODELS.build(copy.deepcopy(model)).train()
    detector = steps["hard"]
    steps["soft"].student = detector.student  # the very same weights and memory
    batch = make_batch(8, 14, detector.bbox_head.num_classes)

    def step(network: torch.nn.Module) -> None:
        network.zero_grad(set_to_none=True)
        total, _ = detector.parse_losses(network.loss(*batch))
        total.backward()

    seconds = alternate(
        {
            "plain": lambda: step(detector.student),
            "teacher": lambda: detector.teacher.run(*batch, ["bbox_head"]),
            "hard": lambda: step(steps["hard"]),
            "soft": lambda: step(steps["soft"]),
        },
        repeats,
        warmup=2,
    )
    floor = [a + b for a, b in zip(seconds["plain"], seconds["teacher"], strict=True)]
    for mode in ("hard", "soft"):
        result = ratio(seconds[mode], floor)
        print(f"  {mode}: {result.slow:.3f} s / {result.fast:.3f} s  {result}", flush=True)
    bench_replay(detector, batch, repeats * 5, statistics.median(floor))


def bench_replay(detector: torch.nn.Module, batch: tuple, repeats: int, floor: float) -> None:
    """The difference that replay makes to the head's loss, as a share of ``floor`` seconds."""
    inputs, samples = batch
    head, seam = detector.bbox_head, detector.methods[0].seam
    with torch.no_grad():
        outputs = head(detector.student.extract_feat(inputs))
    ground_truth = [sample.gt_instances for sample in samples], [sample.metainfo for sample in samples]
    own = seam.with_teacher(seam)  # a teacher of its own family, whose outputs these are

    def loss() -> None:
        head.loss_by_feat(*outputs, *ground_truth)

    def replayed(mode: str) -> None:
        with own.replay(head, head, lambda images: outputs, samples, mode):
            loss()

    tasks = {"plain": loss, "hard": lambda: replayed("hard"), "soft": lambda: replayed("soft")}
    seconds = alternate(tasks, repeats, warmup=2)
    for mode in ("hard", "soft"):
        extra = [a - b for a, b in zip(seconds[mode], seconds["plain"], strict=True)]
        low, middle, high = statistics.quantiles(extra, n=4)
        print(
            f"  {mode}: replay alone {middle * 1e3:.1f} ms (half of the repeats between {low * 1e3:.1f} and "
            f"{high * 1e3:.1f}), {middle / floor:.1%} of {floor:.3f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    init_default_scope("mmdet")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    # Past TOOD's initial epochs.
    MessageHub.get_current_instance().update_info("epoch", 100)
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {args.threads} threads")
    for name in args.only:
        print(f"{name}: LAD step over plain step plus teacher forward ({CONFIGS[name]})", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            bench(CONFIGS[name], args.repeats, Path(folder))


if __name__ == "__main__":
    main()
