"""Label assignment, score voting and the whole LAD step against MMDetection's, in one run.

python tools/benchmarks/assignment.py [--only reassign voting step memory] [--repeats 5]

Ratios are medians over alternating repeats, with their range. Nothing here needs data or a GPU.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from lad.assignment.paa import reassign
from lad.assignment.priors import prior_grid
from lad.assignment.score_voting import vote_boxes
from lad.base.config import detector_config

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from timing import alternate, ratio

IMAGE = (240, 320)


def small_paa(head: str, base_channels: int, **bbox_head) -> dict:
    """PAA with a ResNet-18, FPN and head of 64 channels, three classes."""
    widths = [base_channels * 2**stage for stage in range(4)]
    return detector_config(
        dict(
            config="mmdet::paa/paa_r50_fpn_1x_coco.py",
            backbone=dict(
                depth=18, base_channels=base_channels, init_cfg=None, frozen_stages=-1, norm_eval=False
            ),
            neck=dict(in_channels=widths, out_channels=64),
            bbox_head=dict(
                type=head, num_classes=3, in_channels=64, feat_channels=64, stacked_convs=2, **bbox_head
            ),
        ),
        "student",
    )


def make_batch(images: int, objects: int, seed: int = 0) -> tuple[torch.Tensor, list[DetDataSample]]:
    """Random images (float, normalised) and random boxes of 12 to 80 pixels."""
    generator = torch.Generator().manual_seed(seed)
    height, width = IMAGE
    samples = []
    for number in range(images):
        corner = torch.rand(objects, 2, generator=generator) * torch.tensor([width - 80.0, height - 80.0])
        extent = torch.rand(objects, 2, generator=generator) * 68 + 12
        meta = dict(
            img_id=number, img_path=f"{number}.jpg", img_shape=IMAGE, ori_shape=IMAGE, pad_shape=IMAGE,
            batch_input_shape=IMAGE, scale_factor=(1.0, 1.0),
        )  # fmt: skip
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + extent], dim=1),
            labels=torch.randint(0, 3, (objects,), generator=generator),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
        samples.append(sample)
    return torch.randn(images, 3, height, width, generator=generator), samples


def bench_reassign(repeats: int, counts: list[int]) -> None:
    """The re-assignment of 16 images: top-k, mixtures, separation and new labels."""
    print("re-assignment of 16 images (MMDetection: one scikit-learn mixture an object)")
    plain, batched = (MODELS.build(small_paa(head, 16)).bbox_head for head in ("PAAHead", "BatchedPAAHead"))
    sizes = [(30, 40), (15, 20), (8, 10), (4, 5), (2, 3)]
    grid = prior_grid(plain.prior_generator, sizes, "cpu")
    anchors = [grid.anchors[grid.level == level] for level in range(len(sizes))]
    for objects in counts:
        _, samples = make_batch(16, objects)
        instances = [sample.gt_instances for sample in samples]
        assigned = batched.pre_assign(grid, instances, [sample.metainfo for sample in samples])
        generator = torch.Generator().manual_seed(1)
        images = []
        for image, row in enumerate(assigned):
            index = (row >= 0).nonzero()[:, 0]
            # Losses as training shows them: a few well-fitting anchors, many poor ones.
            losses = 0.3 + torch.rand(len(index), generator=generator).pow(0.4) * 2.5
            labels = torch.full((len(row),), plain.num_classes)
            labels[index] = instances[image].labels[row[index]]
            images.append((losses, labels, torch.ones(len(row)), torch.ones(len(row), 4), index, row[index]))
        flat = (
            torch.cat([image[0] for image in images]),
            torch.cat([image[5] + number * objects for number, image in enumerate(images)]),
            torch.cat([grid.level[image[4]] for image in images]),
        )

        def loop(images=images):
            with torch.no_grad():
                return [plain.paa_reassign(*image, anchors) for image in images]

        def batch(flat=flat, num_gts=16 * objects):
            return reassign(*flat, num_gts=num_gts, num_levels=len(sizes), topk=9)

        few = repeats if objects <= 100 else min(repeats, 5)
        seconds = alternate(dict(mmdet=loop, lad=batch), few)
        result = ratio(seconds["mmdet"], seconds["lad"])
        print(
            f"  {objects:4d} objects  mmdet {result.slow:8.3f} s  lad {result.fast:8.4f} s  {result}",
            flush=True,
        )


def bench_voting(repeats: int) -> None:
    """Score voting of one image: 100 detections, 80 classes, 1,000 candidates a level."""
    print(
        "score voting: 100 detections, 80 classes, 5 x 1,000 candidates with about 6 classes above the threshold"
    )
    head = MODELS.build(
        detector_config("mmdet::paa/paa_r50_fpn_1x_coco.py", "student").bbox_head | dict(train_cfg=None)
    )
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(5000, 2, generator=generator) * 700
    boxes = torch.cat([corner, corner + torch.rand(5000, 2, generator=generator) * 200 + 10], dim=1)
    scores = torch.rand(5000, 81, generator=generator).pow(40)
    scores[:, 80] = 0
    best = torch.randperm(5000, generator=generator)[:100]
    detections = torch.cat([boxes[best], scores[best].max(dim=1).values[:, None]], dim=1)
    arguments = (detections, scores[best].argmax(dim=1), boxes, scores, 0.05)
    seconds = alternate(
        dict(mmdet=lambda: head.score_voting(*arguments), lad=lambda: vote_boxes(*arguments)), repeats * 3
    )
    result = ratio(seconds["mmdet"], seconds["lad"])
    print(f"  mmdet {result.slow * 1e3:8.2f} ms  lad {result.fast * 1e3:8.2f} ms  {result}")


def step(model: torch.nn.Module, inputs: torch.Tensor, samples: list[DetDataSample]) -> None:
    """One training step without the optimizer, which is the same for all."""
    model.zero_grad(set_to_none=True)
    sum(model.loss(inputs, samples).values()).backward()


def bench_step(repeats: int, folder: Path) -> None:
    """The whole LAD step: student with 16 base channels, teacher with 64, batch of 8, 14 objects an image."""
    print("LAD step: student R18 (16 base channels), teacher R18, 320x240, batch 8, 14 objects an image")
    teacher_config, student_config = small_paa("BatchedPAAHead", 64), small_paa("PAAHead", 16)
    teacher = MODELS.build(teacher_config)
    torch.save(dict(state_dict=teacher.state_dict()), folder / "teacher.pth")
    reference = MODELS.build(
        dict(
            type="LAD",
            backbone=copy.deepcopy(student_config.backbone),
            neck=copy.deepcopy(student_config.neck),
            bbox_head=dict(copy.deepcopy(student_config.bbox_head), type="LADHead"),
            teacher_backbone=copy.deepcopy(teacher_config.backbone),
            teacher_neck=copy.deepcopy(teacher_config.neck),
            teacher_bbox_head=dict(copy.deepcopy(teacher_config.bbox_head), type="LADHead"),
            train_cfg=student_config.train_cfg,
            test_cfg=student_config.test_cfg,
            data_preprocessor=student_config.data_preprocessor,
        )
    )
    reference.train()
    reference.teacher_model.load_state_dict(teacher.state_dict())
    student = small_paa("BatchedPAAHead", 16, box_loss_weight="uniform")

    def distillation(**method) -> torch.nn.Module:
        return MODELS.build(
            dict(
                type="DistillationDetector",
                student=copy.deepcopy(student),
                teacher=dict(copy.deepcopy(teacher_config), checkpoint=str(folder / "teacher.pth")),
                methods=[dict(type="LabelAssignmentDistillation", **method)],
            )
        ).train()

    computed = distillation()
    remembered = distillation(cache=dict(dir=str(folder / "cache")))
    plain = MODELS.build(copy.deepcopy(student)).train()
    images = [(torch.rand(3, *IMAGE) * 255).byte() for _ in range(8)]
    _, samples = make_batch(8, 14)

    def prepared(model: torch.nn.Module) -> tuple[torch.Tensor, list[DetDataSample]]:
        data = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)
        return data["inputs"], data["data_samples"]

    seconds = alternate(
        {
            "mmdet": lambda: step(reference, *prepared(computed)),
            "computed": lambda: step(computed, *prepared(computed)),
            "remembered": lambda: step(remembered, *prepared(remembered)),
            "plain": lambda: step(plain, *prepared(plain)),
            "teacher": lambda: computed.teacher.run(*prepared(computed), ["bbox_head"]),
        },
        repeats * 2,
        warmup=2,
    )
    floor = [a + b for a, b in zip(seconds["plain"], seconds["teacher"], strict=True)]
    rows = [
        ("mmdet's LAD over lad, teacher computed", "mmdet", seconds["computed"]),
        ("mmdet's LAD over lad, teacher remembered", "mmdet", seconds["remembered"]),
        ("lad, teacher computed, over plain step + teacher forward", "computed", floor),
        ("lad, teacher remembered, over plain step", "remembered", seconds["plain"]),
    ]
    for title, slow, fast in rows:
        result = ratio(seconds[slow], fast)
        print(f"  {title:58s} {result.slow:.3f} s / {result.fast:.3f} s  {result}")


def measure_memory(connection, head_type: str, objects: int) -> None:
    """Peak memory of one head loss and its gradient, above that for one object an image, in a process of its own."""
    init_default_scope("mmdet")
    torch.set_num_threads(1)
    head = MODELS.build(small_paa(head_type, 16)).bbox_head
    _, samples = make_batch(8, objects)
    sizes = [(30, 40), (15, 20), (8, 10), (4, 5), (2, 3)]

    def loss(samples: list[DetDataSample]) -> None:
        levels = [
            [torch.randn(8, channels, *size, requires_grad=True) for size in sizes] for channels in (3, 4, 1)
        ]
        losses = head.loss_by_feat(*levels, [s.gt_instances for s in samples], [s.metainfo for s in samples])
        sum(losses.values()).backward()

    few = make_batch(8, 1)[1]
    loss(few)
    connection.send(peak_of(lambda: loss(samples)) - peak_of(lambda: loss(few)))


def peak_of(task: Callable[[], object]) -> float:
    """Peak memory of this process in MB while a task runs (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    task()
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024


def bench_memory(counts: list[int]) -> None:
    """Peak memory that the loss of 8 images adds, by the number of objects."""
    print(
        "peak memory of the head's loss and gradient for 8 images of 320x240, above that with one object each"
    )
    context = multiprocessing.get_context("spawn")
    for objects in counts:
        used = {}
        for head in ("PAAHead", "BatchedPAAHead"):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=measure_memory, args=(sender, head, objects))
            process.start()
            used[head] = receiver.recv()
            process.join()
        plain, batched = used["PAAHead"], used["BatchedPAAHead"]
        figures = f"PAAHead {plain:6.0f} MB  BatchedPAAHead {batched:6.0f} MB  ({batched - plain:+.0f} MB)"
        print(f"  {objects:4d} objects  {figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("reassign", "voting", "step", "memory")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 7, 30, 100, 500])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    init_default_scope("mmdet")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {args.threads} threads")
    if "reassign" in args.only:
        bench_reassign(args.repeats, args.objects)
    if "voting" in args.only:
        bench_voting(args.repeats)
    if "step" in args.only:
        with tempfile.TemporaryDirectory() as folder:
            bench_step(args.repeats, Path(folder))
    if "memory" in args.only:
        bench_memory(args.objects)


if __name__ == "__main__":
    main()
