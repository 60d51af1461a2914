"""Cost of Faster R-CNN distillation beside its two networks.

python tools/benchmarks/faster_rcnn.py [CONFIG] [--batch-size 8] [--size 240 320] [--objects 14] [--repeats 10]

CONFIG is a distillation's (by default all of the paper's parts on blood cells). A distilled step (forward, losses,
backward) is compared with its floor: a plain step of the student, and the teacher's backbone, FPN, RPN and RoI head on
as many boxes as the student samples. Weights and images are random; no checkpoint and no data set is needed.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from lad.base.config import detector_config, load_config
from lad.methods.roi.heads import forward_stage, stages_of
from lad.networks.building import without_pretraining

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample, SampleList
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from timing import alternate, ratio
from torch import Tensor, nn

CONFIG = "configs/faster_rcnn/frcnn-all_faster-rcnn-r18-c16_faster-rcnn-r18_fpn_bccd.py"


def random_batch(
    images: int, size: tuple[int, int], objects: int, num_classes: int
) -> tuple[Tensor, SampleList]:
    """Normalised images of noise with boxes of 15 to 100 pixels."""
    height, width = size
    samples = []
    for number in range(images):
        extent = torch.rand(objects, 2) * 85 + 15
        corner = torch.rand(objects, 2) * (torch.tensor([width, height]) - extent).clamp(min=0)
        meta = dict(
            img_id=number,
            img_shape=size,
            ori_shape=size,
            pad_shape=size,
            batch_input_shape=size,
            scale_factor=(1.0, 1.0),
        )
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + extent], dim=1),
            labels=torch.randint(0, num_classes, (objects,)),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
        samples.append(sample)
    return torch.randn(images, 3, height, width), samples


def total(losses: dict) -> Tensor:
    """The sum of a detector's losses."""
    values = (value for name, value in losses.items() if "loss" in name)
    return sum(sum(value) if isinstance(value, list) else value for value in values)


def step(model: nn.Module, inputs: Tensor, samples: SampleList) -> Callable[[], None]:
    """A training step without the optimizer."""

    def run() -> None:
        model.zero_grad(set_to_none=True)
        total(model.loss(inputs, copy.deepcopy(samples))).backward()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", default=CONFIG)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=[240, 320], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--objects", type=int, default=14)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    init_default_scope("mmdet")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = without_pretraining(load_config(args.config).model)
    student = without_pretraining(detector_config(config.student, "student"))
    spec = {key: value for key, value in config.teacher.items() if key not in ("checkpoint", "speed")}
    teacher = without_pretraining(detector_config(spec, "teacher"))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "teacher.pth"
        torch.save(dict(state_dict=MODELS.build(copy.deepcopy(teacher)).state_dict()), checkpoint)
        speed = config.teacher.get("speed")
        config.student = copy.deepcopy(student)
        config.teacher = dict(teacher, checkpoint=str(checkpoint), speed=speed)
        distilled = MODELS.build(config).train()
    plain = MODELS.build(student).train()
    plain.load_state_dict(distilled.student.state_dict())
    heads = stages_of(plain)
    inputs, samples = random_batch(args.batch_size, tuple(args.size), args.objects, heads[0].num_classes)
    roi_cfg = plain.train_cfg.rcnn
    count = (roi_cfg[0] if isinstance(roi_cfg, (list, tuple)) else roi_cfg).sampler.num
    rois = torch.cat([sample.gt_instances.bboxes for sample in samples])
    rois = rois[torch.randint(len(rois), (count * args.batch_size,))] + torch.randn(
        count * args.batch_size, 4
    )
    images = torch.arange(args.batch_size).repeat_interleave(count)[:, None].float()
    rois = torch.cat([images, rois], dim=1)
    features = "neck" if hasattr(distilled.teacher.model, "neck") else "backbone"

    def forward_teacher() -> None:
        view = distilled.teacher.view(inputs, samples, [features, "rpn_head"])
        for stage in range(len(stages_of(distilled.teacher.model))):
            view.evaluate(
                lambda model, outputs, stage=stage: forward_stage(
                    model.roi_head, stage, outputs[features], rois
                )
            )

    plain_step = step(plain, inputs, samples)

    def floor() -> None:
        plain_step()
        forward_teacher()

    tasks = dict(
        distilled=step(distilled, inputs, samples), floor=floor, plain=plain_step, teacher=forward_teacher
    )
    seconds = alternate(tasks, args.repeats)
    whole = ratio(seconds["distilled"], seconds["floor"])
    print(f"{args.config}: {args.batch_size} images of {tuple(args.size)}, {count} proposals each")
    print(f"  plain student step     {ratio(seconds['plain'], seconds['plain']).slow:.4f} s")
    print(f"  teacher's forward      {ratio(seconds['teacher'], seconds['teacher']).slow:.4f} s")
    print(f"  both                   {whole.fast:.4f} s")
    print(f"  distilled step         {whole.slow:.4f} s")
    print(f"  distilled step / both  {whole}")


if __name__ == "__main__":
    main()
