"""Small detectors and batches that every test can build, without network and without data."""

from __future__ import annotations

import copy
import os
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from unittest import mock

import lad  # noqa: F401  -- registers and patches before anything imports MMDetection
from lad.base.config import detector_config
from lad.base.progress import Progress

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from sklearn.mixture import GaussianMixture
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

ROOT = Path(__file__).parents[1]


def small_paa(head: str = "BatchedPAAHead", base: int = 8, num_classes: int = 3, **bbox_head) -> ConfigDict:
    """A PAA detector of a few thousand weights, on MMDetection's own config."""
    return detector_config(
        dict(
            config="mmdet::paa/paa_r50_fpn_1x_coco.py",
            backbone=dict(depth=18, base_channels=base, init_cfg=None, frozen_stages=-1, norm_eval=False),
            neck=dict(in_channels=[base, base * 2, base * 4, base * 8], out_channels=32),
            bbox_head=dict(
                type=head,
                num_classes=num_classes,
                in_channels=32,
                feat_channels=32,
                stacked_convs=1,
                **bbox_head,
            ),
        ),
        "student",
    )


def small_detector(config: str) -> ConfigDict:
    """A one-stage detector or Faster R-CNN of MMDetection with 8 base channels and 32 in neck and heads."""
    return copy.deepcopy(_small_detector(config))


@cache
def _small_detector(config: str) -> ConfigDict:
    # To find a file of MMDetection takes longer than to build the detector.
    thin = dict(in_channels=32, feat_channels=32)
    if "faster_rcnn" in config:
        roi_head = dict(
            bbox_roi_extractor=dict(out_channels=32),
            bbox_head=dict(in_channels=32, fc_out_channels=32, num_classes=3),
        )
        heads = dict(rpn_head=thin, roi_head=roi_head)
    else:
        heads = dict(bbox_head=dict(thin, num_classes=3, stacked_convs=1))
    return detector_config(
        dict(
            config=config,
            backbone=dict(depth=18, base_channels=8, init_cfg=None, frozen_stages=-1, style="pytorch"),
            neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
            **heads,
        ),
        "student",
    )


def co_learning(networks: dict, switch: dict, **settings) -> dict:
    """The config of networks that share their label assignment; the first is deployed."""
    method = dict(type="CoLearningAssignment", switch=dict(switch))
    return dict(type="DistillationDetector", networks=copy.deepcopy(networks), methods=[method], **settings)


def distillation_of(
    folder: Path, student: dict, teacher: dict, *methods: dict, **settings
) -> torch.nn.Module:
    """A student with weights of seed 0 and a teacher with those of seed 1, from a checkpoint in a folder."""
    path = save_checkpoint(build(teacher, 1), folder / "teacher.pth")
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=copy.deepcopy(student),
            teacher=dict(copy.deepcopy(teacher), checkpoint=path),
            methods=copy.deepcopy(list(methods)),
            **settings,
        )
    )
    model.student.load_state_dict(build(student).state_dict())
    return model


def at(model: torch.nn.Module, iteration: int, epoch: int | None = None) -> None:
    """Let a detector's ``loss`` be that of this place in a run; the epoch has the iteration's number by default."""
    place = Progress(iteration, iteration if epoch is None else epoch)
    model.enter_phase(place)
    model.loss = partial(model.loss_at, place)


def build(config: dict, seed: int = 0) -> torch.nn.Module:
    """Build a detector with random weights that depend on the seed alone; classification bias raised, so that
    predictions differ between objects."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS.build(copy.deepcopy(config))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def save_checkpoint(model: torch.nn.Module, path: Path, **meta) -> str:
    """A checkpoint file as MMEngine writes it."""
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return str(path)


def make_batch(
    objects=(3, 0, 7), size=(96, 128), num_classes: int = 3, seed: int = 0, shapes=None, channels: int = 3
) -> tuple[torch.Tensor, list[DetDataSample]]:
    """Random images (normalised) with random boxes; ``objects`` a number for each image."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    inputs = torch.randn(len(objects), channels, height, width, generator=generator)
    samples = []
    for number, count in enumerate(objects):
        h, w = shapes[number] if shapes else size
        pad = ((h + 31) // 32 * 32, (w + 31) // 32 * 32)
        inputs[number, :, h:] = 0
        inputs[number, :, :, w:] = 0
        sample = DetDataSample(
            metainfo=dict(
                img_id=number,
                img_path=f"image_{number}.jpg",
                img_shape=(h, w),
                ori_shape=(h, w),
                pad_shape=pad,
                batch_input_shape=size,
                scale_factor=(1.0, 1.0),
            )
        )
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([w * 0.6, h * 0.6])
        extent = torch.rand(count, 2, generator=generator) * torch.tensor([w * 0.3, h * 0.3]) + 8
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + extent], dim=1),
            labels=torch.randint(0, num_classes, (count,), generator=generator),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
        samples.append(sample)
    return inputs, samples


@contextmanager
def float64_mixtures():
    """MMDetection's PAA with its mixtures fitted in float64, the oracle for assignments.

    It hands scikit-learn float32, whose answer differs from scikit-learn's own float64 one in about 1 % of groups.
    Densities are rounded to nine decimals: two candidates alone in their component are equally far from its mean,
    so equally dense, and rounding errors that depend on the BLAS would decide whether one or both are positive.
    """

    class Mixture(GaussianMixture):
        def fit(self, values, y=None):
            return super().fit(values.astype("float64"), y)

        def predict(self, values):
            return super().predict(values.astype("float64"))

        def score_samples(self, values):
            return super().score_samples(values.astype("float64")).round(9)

    with mock.patch("mmdet.models.dense_heads.paa_head.skm.GaussianMixture", Mixture):
        yield


@contextmanager
def fake_cuda(real_inputs: bool = True):
    """Tensors without data on a CUDA device that need not exist.

    Raises where a CPU tensor meets a CUDA one, and where code waits for a value, which does not exist (``.item()``,
    ``if tensor:``).

    Args:
        real_inputs: Whether tensors made outside (settings of a head, say) may come in, as CPU tensors.
    """
    with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=real_inputs) as mode:
        yield mode


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)
