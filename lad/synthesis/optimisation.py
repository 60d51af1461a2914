"""Optimise a batch of images until a detector finds given objects in them and its layers find them familiar."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from lad.base.progress import LATE_EPOCH, tell_place
from lad.base.random_state import RandomState
from lad.errors import ConfigError, NumericalError
from lad.networks.forward import set_head_flags
from lad.synthesis.augmentation import Movement, random_movement, room
from lad.synthesis.layouts import Layout
from lad.synthesis.pixels import PixelScale
from lad.synthesis.pyramid import Pyramid
from lad.synthesis.statistics import StatisticsDistance
from lad.synthesis.total_variation import total_variation

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor

#: Steps between two looks at the loss, each of which waits for the device.
WATCHED = 20
#: Standard deviation of the noise that images start from, in the detector's scale; few of its pixels are clipped.
NOISE = 0.5


@dataclass(frozen=True)
class Objective:
    """Weights of what is minimised: detector * loss + statistics * sum R_l + first * R_1 + variation * TV.

    DIODE's published command has 0.002, 10 and 100 beside a YOLOv3's loss. The losses of MMDetection's detectors are of
    the size of 1, beside which these weights leave nothing but flat grey; with the defaults every term counts.

    Attributes:
        detector: Of the detector's own training loss.
        statistics: Of the distances of all batch norm layers (:class:`StatisticsDistance`).
        first: Of the distance of the first one, once more: it knows the colours.
        variation: Of the total variation in the detector's scale.
    """

    detector: float = 1.0
    statistics: float = 0.005
    first: float = 1.0
    variation: float = 0.5

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value < math.inf:
                raise ConfigError(f"the weight {name!r} must be a number of at least 0, got {value!r}.")


@dataclass(frozen=True)
class Schedule:
    """How images are optimised.

    Attributes:
        steps: Steps of Adam; 0 leaves the noise.
        lr: Learning rate in the detector's scale, in which natural images have a standard deviation of about 1. It
            rises in the first twentieth of the steps and then falls to 0 as a cosine.
        levels: Resolutions that an image is the sum of (:class:`lad.synthesis.pyramid.Pyramid`); 1 optimises the pixels
            themselves.
        jitter: The greatest random shift, in pixels.
        flip_prob: Probability of mirroring in each step.
    """

    steps: int = 500
    lr: float = 0.05
    levels: int = 5
    jitter: int = 16
    flip_prob: float = 0.5

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"steps must be at least 0, got {self.steps}.")
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr must be a positive number, got {self.lr}.")
        if self.levels < 1:
            raise ConfigError(f"levels must be at least 1, got {self.levels}.")
        if self.jitter < 0:
            raise ConfigError(f"jitter must be at least 0, got {self.jitter}.")
        if not 0 <= self.flip_prob <= 1:
            raise ConfigError(f"the probability of mirroring must be from 0 to 1, got {self.flip_prob}.")

    def lr_at(self, step: int) -> float:
        """Learning rate of a step."""
        warmup = max(1, self.steps // 20)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup)))


@dataclass(frozen=True)
class Losses:
    """Value of the objective and of its terms, without their weights."""

    total: float
    detector: float
    statistics: float
    first: float
    variation: float


@dataclass(frozen=True, eq=False)
class SynthesisedBatch:
    """Images with what is known of them.

    Attributes:
        pixels: (N, H, W, C) uint8 on the CPU, red first.
        layouts: The objects of each.
        before, after: The objective for the noise and for the pixels, neither shifted nor mirrored.
    """

    pixels: Tensor
    layouts: Sequence[Layout]
    before: Losses
    after: Losses


class ImageSynthesiser:
    """Makes images from a frozen detector by gradient descent on their pixels.

    Chawla et al., "Data-free Knowledge Distillation for Object Detection" (DIODE), WACV 2021: images are noise that is
    changed until the detector's training loss for randomly placed objects, the distance of its batch norms' statistics
    and the images' total variation are small. The detector's modules stay in eval mode, and only the flags of itself
    and of its heads are those of training, as for a frozen teacher: no statistics are updated.

    Args:
        model: The detector with its weights loaded, on its device; it is frozen.
        scale: Of its images.
        objective: What is minimised.
        schedule: How.
        epoch: The epoch for heads whose loss changes in the course of a training; by default they are at its end.
    """

    def __init__(
        self,
        model: BaseDetector,
        scale: PixelScale,
        objective: Objective,
        schedule: Schedule,
        epoch: int = LATE_EPOCH,
    ) -> None:
        self.model = model.requires_grad_(False).eval()
        set_head_flags(self.model)
        self.scale = scale
        self.objective = objective
        self.schedule = schedule
        self.epoch = epoch
        self.statistics = StatisticsDistance(self.model)
        self.device = next(model.parameters()).device

    def make(
        self,
        layouts: Sequence[Layout],
        size: tuple[int, int],
        seed: int,
        progress: Callable[[int], None] | None = None,
    ) -> SynthesisedBatch:
        """Make a batch of images; the process's random state is left as it was.

        Args:
            layouts: The objects of each image.
            size: (height, width) in pixels.
            seed: Of the noise, of the movements and of what the detector's loss draws.
            progress: Called with the number of further steps that are done.

        Raises:
            NumericalError: the loss is NaN or infinite.
        """
        before = RandomState.capture(self.device)
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            return self._make(layouts, size, torch.Generator().manual_seed(seed), progress)
        finally:
            before.restore()

    def _make(
        self,
        layouts: Sequence[Layout],
        size: tuple[int, int],
        generator: torch.Generator,
        progress: Callable[[int], None] | None,
    ) -> SynthesisedBatch:
        channels = len(self.scale.mean)
        noise = torch.randn(len(layouts), channels, *size, generator=generator) * NOISE
        pyramid = Pyramid(self.scale.clip(noise.to(self.device)), self.schedule.levels)
        images = pyramid.images().detach()
        objects = _Objects.of(layouts, self.device)
        still = Movement(
            torch.zeros(len(layouts), 2, dtype=torch.int64, device=self.device),
            torch.zeros(len(layouts), dtype=torch.bool, device=self.device),
        )
        with torch.no_grad():
            first = self.losses(self.scale.rounded(images), objects, still)
        limits = room(objects.bboxes, objects.image, len(layouts), size)
        optimiser = torch.optim.Adam(pyramid.levels, lr=self.schedule.lr, betas=(0.5, 0.9))
        for step in range(self.schedule.steps):
            for group in optimiser.param_groups:
                group["lr"] = self.schedule.lr_at(step)
            movement = random_movement(limits, self.schedule.jitter, self.schedule.flip_prob, generator)
            total = self.losses(pyramid.images(), objects, movement)["total"]
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            images = pyramid.project(self.scale.clip)
            if (step + 1) % WATCHED == 0:
                self._check_finite(total, step)
            if progress is not None:
                progress(1)
        with torch.no_grad():
            last = self.losses(self.scale.rounded(images), objects, still)
        self._check_finite(last["total"], self.schedule.steps)
        return SynthesisedBatch(
            pixels=self.scale.to_bytes(images).cpu(),
            layouts=layouts,
            before=Losses(**{name: float(value) for name, value in first.items()}),
            after=Losses(**{name: float(value) for name, value in last.items()}),
        )

    def losses(self, images: Tensor, objects: _Objects, movement: Movement) -> dict[str, Tensor]:
        """The objective and its terms (see :class:`Losses`) for moved images.

        Args:
            images: (N, C, H, W) in the detector's scale.
            objects: Their objects.
            movement: How they are moved.
        """
        tell_place(0, self.epoch)
        moved = movement.images(images)
        bboxes = movement.boxes(objects.bboxes, objects.image, images.shape[-1])
        with self.statistics.record():
            losses = self.model.loss(self.scale.for_detector(moved), objects.samples(bboxes, moved))
        distances = self.statistics.distances()
        detector, _ = self.model.parse_losses(losses)
        terms = dict(
            detector=detector,
            statistics=distances.sum(),
            first=distances[0],
            variation=total_variation(moved),
        )
        total = torch.stack([getattr(self.objective, name) * value for name, value in terms.items()]).sum()
        return dict(total=total, **terms)

    def _check_finite(self, loss: Tensor, step: int) -> None:
        if not torch.isfinite(loss):
            raise NumericalError(
                f"the loss of the images is {float(loss)} after {step} steps: give a lower learning rate or other "
                "weights."
            )


@dataclass(frozen=True, eq=False)
class _Objects:
    """The objects of a batch, one after the other."""

    bboxes: Tensor
    labels: Tensor
    image: Tensor
    counts: list[int]

    @classmethod
    def of(cls, layouts: Sequence[Layout], device: torch.device) -> _Objects:
        counts = [len(layout.labels) for layout in layouts]
        return cls(
            bboxes=torch.cat([layout.bboxes for layout in layouts]).to(device),
            labels=torch.cat([layout.labels for layout in layouts]).to(device),
            image=torch.repeat_interleave(torch.arange(len(layouts)), torch.tensor(counts)).to(device),
            counts=counts,
        )

    def samples(self, bboxes: Tensor, images: Tensor) -> list[DetDataSample]:
        """MMDetection's samples with moved boxes: an object for each image, as its detectors take them."""
        height, width = images.shape[-2:]
        samples = []
        for number, (own, labels) in enumerate(
            zip(bboxes.split(self.counts), self.labels.split(self.counts), strict=True)
        ):
            sample = DetDataSample(
                metainfo=dict(
                    img_id=number,
                    img_shape=(height, width),
                    ori_shape=(height, width),
                    pad_shape=(height, width),
                    batch_input_shape=(height, width),
                    scale_factor=(1.0, 1.0),
                )
            )
            sample.gt_instances = InstanceData(bboxes=own, labels=labels)
            sample.ignored_instances = InstanceData(bboxes=own.new_zeros(0, 4), labels=labels.new_zeros(0))
            samples.append(sample)
        return samples
