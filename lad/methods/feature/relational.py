"""Relational distillation: distances and angles between the objects of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from lad.base.capture import find_module, levels_of
from lad.base.settings import check_numbers, is_whole
from lad.errors import ConfigError, UnsupportedError
from lad.losses.feature import Objects
from lad.losses.relational import RKDLoss
from lad.methods.base import DistillationMethod, Link, Step
from lad.methods.feature.maps import objects_of
from lad.methods.settings import checked_loss_name
from lad.networks.dry_run import DRY_RUN_SIZE, dry_run
from lad.networks.gives import FEATURES
from lad.networks.routes import Teacher

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS
from torch import Tensor


class ObjectPooling(SingleRoIExtractor):
    """Pool object embeddings from a pyramid: the mean of 14 x 14 samples of each box, on the level of its size.

    All objects are pooled from all levels, so that the shapes do not depend on the boxes' sizes and nothing waits
    for the device; MMDetection's own extractor sorts them by level first. Levels are chosen by its rule, from the
    strides: 224 pixels and more are the level of stride 16 and coarser ones, on any pyramid.

    Args:
        channels: Of the pyramid.
        strides: Of its levels, in pixels, finest first.
    """

    def __init__(self, channels: int, strides: Sequence[float]) -> None:
        # Lin et al., "Feature Pyramid Networks", Eq. 1: 224 pixels are 14 strides of 16, and half of them 14 of 8. So
        # many samples each way, whatever the box's size: on the finest level a large box has thousands of positions.
        super().__init__(
            dict(type="RoIAlign", output_size=1, sampling_ratio=14), channels, list(strides), 14 * strides[0]
        )

    def forward(self, levels: Sequence[Tensor], objects: Objects) -> Tensor:
        """Embeddings (n, C), float32, of n objects; with a gradient of 0 to the levels where n is 0."""
        if len(objects.bboxes) == 0:
            # Kernels need not cope with nothing.
            return torch.stack([level.flatten(2)[:0, :, 0] for level in levels]).sum(0).float()
        # In half precision coordinates would be rounded to pixels.
        rois = torch.cat([objects.images[:, None].to(objects.bboxes), objects.bboxes], dim=1).float()
        # The number of levels is small and each has its own size. See lad.methods.roi.heads on the memory's layout.
        pooled = [
            layer(level.float().contiguous(), rois).flatten(1)
            for layer, level in zip(self.roi_layers, levels, strict=True)
        ]
        chosen = self.map_roi_levels(rois, len(pooled))
        return torch.stack(pooled, dim=1).gather(1, chosen[:, None, None].expand(-1, 1, pooled[0].shape[1]))[
            :, 0
        ]


def evenly(objects: Objects, limit: int) -> Objects:
    """At most so many of the objects, evenly spread over the batch; the same ones every time."""
    count = len(objects.bboxes)
    if count <= limit:
        return objects
    kept = torch.tensor([number * count // limit for number in range(limit)])
    kept = kept.to(objects.bboxes.device, non_blocking=True)
    return Objects(objects.bboxes[kept], objects.images[kept], objects.image_size)


@MODELS.register_module()
class RelationalDistillation(DistillationMethod):
    """Distances and angles between a batch's objects become the teacher's.

    Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068. The paper relates images by their
    embeddings. Here it is the objects of all images of the batch: the mean of each pyramid over each ground-truth box.
    Relations do not depend on the number of channels, so there is no connector, and the two pyramids may have other
    levels. Each process relates the objects of its own images.

    Args:
        student: The student's module that returns a pyramid, or one map, with the same channels everywhere.
        teacher: The teacher's.
        distance_weight: lambda_D. The default is the paper's for classifiers.
        angle_weight: lambda_A, likewise.
        max_objects: So many objects of a batch at most, evenly spread over it: angles take its cube.
        loss_weight: Factor of the result.
        loss_name: What the loss is called.
        init_cfg: As in MMEngine.
    """

    loss_name: str

    reads = FEATURES
    compares_classes = False
    compares_units = ()

    def __init__(
        self,
        student: str = "neck",
        teacher: str = "neck",
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        max_objects: int = 64,
        loss_weight: float = 1.0,
        loss_name: str = "loss_rkd",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not is_whole(max_objects) or max_objects < 3:
            raise ConfigError(
                f"RelationalDistillation: max_objects must be 3 or more, got {max_objects!r:.60}."
            )
        check_numbers(
            "RelationalDistillation",
            minimum=0,
            distance_weight=distance_weight,
            angle_weight=angle_weight,
            loss_weight=loss_weight,
        )
        self.student_modules, self.teacher_modules = (student,), (teacher,)
        self.max_objects = max_objects
        self.loss_name = checked_loss_name(type(self).__name__, loss_name)
        self.loss = RKDLoss(distance_weight, angle_weight, loss_weight)

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Find the strides of both pyramids."""
        ((own_name,), (taught_name,)) = self.student_modules, self.teacher_modules
        find_module(student, own_name)
        teacher.check_modules([taught_name])
        self.student_pooling = _pooling(dry_run(student, [own_name]).calls(own_name), own_name, "student")
        self.teacher_pooling = _pooling(
            teacher.dry_run([taught_name]).calls(taught_name), taught_name, "teacher"
        )

    def check_without_labels(self, student: BaseDetector) -> None:
        """Refused: the objects are the labels'."""
        raise UnsupportedError(
            "RelationalDistillation uses the ground truth, so it needs student_loss=True; "
            "FeatureDistillation with CWDLoss does not."
        )

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The loss of the batch's objects."""
        objects = evenly(objects_of(step), self.max_objects)
        own = levels_of(step.outputs.calls(self.student_modules[0]))
        taught = levels_of(step.teacher.target(self.teacher_modules[0]))
        with torch.no_grad():
            target = self.teacher_pooling(taught, objects)
        return {self.loss_name: self.loss(self.student_pooling(own, objects), target)}

    def links(self) -> list[Link]:
        """One, of the two pyramids."""
        text = f"objects {self.student_pooling.out_channels} -> {self.teacher_pooling.out_channels}"
        return [Link(self.student_modules[0], self.teacher_modules[0], text)]

    def loss_weights(self) -> dict[str, float]:
        """The method's factor."""
        return {self.loss_name: self.loss.loss_weight}


def _pooling(calls: list, name: str, owner: str) -> ObjectPooling:
    levels = levels_of(calls)
    channels = {level.shape[1] for level in levels}
    if not levels or len(channels) > 1 or any(level.dim() != 4 for level in levels):
        shapes = [tuple(level.shape) for level in levels]
        raise UnsupportedError(
            f"RelationalDistillation: {name!r} of the {owner} returns {shapes}; it needs maps (N, C, H, W) with the "
            "same channels, such as those of 'neck'."
        )
    return ObjectPooling(channels.pop(), [DRY_RUN_SIZE[0] / level.shape[2] for level in levels])
