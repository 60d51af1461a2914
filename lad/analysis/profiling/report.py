"""Report of a config's networks: parameters, multiply-adds, and time and memory of a training step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lad.analysis.profiling.batch import batches, input_shape, random_batch
from lad.analysis.profiling.building import RANDOM, build_offline
from lad.analysis.profiling.complexity import Complexity, complexity_of, sharing_backbone
from lad.analysis.profiling.step import PartCost, StepCost, device_of, measure_step
from lad.analysis.tables import text_table
from lad.detectors.inspection import (
    adapter_parameters,
    exits_of,
    frozen_teachers,
    network_inputs,
    trained_networks,
)
from lad.detectors.masks import predicts_masks
from lad.errors import ConfigError
from lad.networks.channels import image_channels
from lad.networks.exits import Exit
from lad.networks.gives import FEATURES, PREDICTIONS

import torch
from mmdet.models.detectors import BaseDetector
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper


@dataclass(frozen=True)
class ModelReport:
    """Size and cost of a config's networks; ``str()`` formats it as tables.

    Attributes:
        device: Device that it was measured on.
        threads: Number of CPU threads.
        batch_size: Images per training step.
        shape: Height and width of the images, before padding.
        objects: Ground-truth boxes per image.
        networks: Complexity of each network by its name, and of each exit without the backbone that it shares.
        adapters: Number of weights of the methods' adapters, which are trained and not deployed.
        step: Cost of a training step; None if no steps were timed.
    """

    device: str
    threads: int
    batch_size: int
    shape: tuple[int, int]
    objects: int
    networks: dict[str, Complexity]
    adapters: int
    step: StepCost | None

    def to_dict(self) -> dict:
        """The report as plain data for JSON: bytes, seconds, multiply-adds."""
        return asdict(self)

    def __str__(self) -> str:
        height, width = self.shape
        where = f"{self.device}, {self.threads} threads" if self.device == "cpu" else self.device
        return "\n".join([*self._network_lines(), "", *self._step_lines(where)]).replace(
            "IMAGE", f"one image of {height}x{width} pixels"
        )

    def _network_lines(self) -> list[str]:
        header = ("network", "detector", "parameters", "trained", "GMACs", "GFLOPs", "weights")
        rows = []
        for name, own in self.networks.items():
            counts = (f"{own.parameters / 1e6:.2f} M", f"{own.trainable / 1e6:.2f} M")
            work = (f"{own.macs / 1e9:.2f}", f"{own.macs * 2 / 1e9:.2f}")
            rows.append((name, own.detector, *counts, *work, own.weights))
        if self.adapters:
            count = f"{self.adapters / 1e6:.2f} M"
            rows.append(("adapters", "of the methods", count, count, "", "", RANDOM))
        exits = [own for own in self.networks.values() if own.detector == Exit.__name__]
        return [
            text_table(header, rows, right=range(2, 6)),
            "GMACs: billions of multiply-adds for IMAGE; MMDetection's get_flops.py calls them FLOPs.",
            "GFLOPs: counts a multiply-add as two operations.",
            *(["Exit: without the backbone, which it shares."] if exits else []),
        ]

    def _step_lines(self, where: str) -> list[str]:
        if self.step is None:
            return []
        height, width = self.shape
        header = ("part of a training step", "ms", "range", "share", "peak MB")
        rows = []
        for part in self.step.parts:
            share = f"{part.seconds / self.step.seconds:.0%}"
            rows.append((part.name, *_times(part), share, _megabytes(part.peak_bytes)))
        rows.append(("whole step", *_times(self.step), "", _megabytes(self.step.peak_bytes)))
        return [
            f"{self.batch_size} images of {height}x{width} pixels, {self.objects} objects each; {where}; medians of "
            f"{self.step.steps} steps",
            text_table(header, rows, right=range(1, 5)),
            f"peak MB: {self.step.memory}, above the level before the first step.",
        ]


def _times(cost: PartCost | StepCost) -> tuple[str, str]:
    return f"{cost.seconds * 1e3:.1f}", f"{cost.fastest * 1e3:.1f} to {cost.slowest * 1e3:.1f}"


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:.0f}"


def profile_config(
    cfg: Config,
    *,
    shape: tuple[int, int] | None = None,
    batch_size: int | None = None,
    objects: int = 7,
    steps: int = 5,
    device: str | None = None,
    random_teacher: bool = False,
) -> ModelReport:
    """Build a config's detector without data and downloads, and measure it on random images.

    Args:
        cfg: Config with a ``model``; its training pipeline, batch size and optimizer are used where it has them.
        shape: Height and width of the images; by default what the training pipeline resizes to.
        batch_size: Images per training step; by default the training loader's, or 2.
        objects: Ground-truth boxes per image.
        steps: Number of training steps to time; 0 for none.
        device: Device name; by default the accelerator if there is one.
        random_teacher: Give teachers random weights even where their checkpoints are local files.

    Raises:
        ConfigError: there is no model or no such device, or sizes are not positive; others as in training.
    """
    if cfg.get("model") is None:
        raise ConfigError("the config has no 'model'.")
    height, width = shape or input_shape(cfg)
    shape = (height, width)
    batch_size = batch_size or (cfg.get("train_dataloader") or {}).get("batch_size") or 2
    if min(*shape, batch_size, objects) < 1 or steps < 0:
        raise ConfigError(
            f"sizes must be positive: shape {shape}, batch {batch_size}, objects {objects}, steps {steps}."
        )
    place = device_of(device)
    detector, origins = build_offline(cfg.model, random_teacher)
    # As get_flops.py does: synchronised batch norms need several processes.
    detector = revert_sync_batchnorm(detector).to(place)
    settings: dict[str, Any] = dict(
        shape=shape,
        objects=objects,
        # The maximum, because an RPN has one class.
        num_classes=max((getattr(module, "num_classes", 0) for module in detector.modules()), default=0) or 1,
        with_masks=predicts_masks(detector),
        channels=image_channels(detector),
    )
    networks, adapters = _networks(detector, origins, random_batch(images=2, **settings))
    step = None
    if steps > 0:
        optimizer = cfg.get("optim_wrapper") or dict(optimizer=dict(type="SGD", lr=1e-3, momentum=0.9))
        wrapper = build_optim_wrapper(detector, optimizer)
        step = measure_step(detector, wrapper, batches(images=batch_size, **settings), steps)
    return ModelReport(
        device=str(place),
        threads=torch.get_num_threads(),
        batch_size=batch_size,
        shape=shape,
        objects=objects,
        networks=networks,
        adapters=adapters,
        step=step,
    )


def _networks(
    detector: BaseDetector, origins: dict[str, str], batch: dict
) -> tuple[dict[str, Complexity], int]:
    """Complexity of each network of a detector by its name, and the number of adapter weights."""
    flags = detector.training
    data = detector.eval().data_preprocessor(batch, False)
    detector.train(flags)
    inputs, samples = data["inputs"], data["data_samples"]
    networks = {}
    for name, network in trained_networks(detector).items():
        own = network_inputs(detector, name, inputs, samples)
        networks[name or "detector"] = complexity_of(network, own, samples, RANDOM)
    for name, exit_ in exits_of(detector).items():
        network = name.partition(".")[0]
        own = network_inputs(detector, network, inputs, samples)
        with sharing_backbone(exit_, trained_networks(detector)[network], own):
            networks[name] = complexity_of(exit_, own, samples, RANDOM)
    for name, teacher in frozen_teachers(detector).items():
        if PREDICTIONS not in teacher.gives and FEATURES not in teacher.gives:
            continue  # a file, which runs nothing
        own = teacher.renormalisation(inputs, samples)
        networks[name] = complexity_of(teacher.model, own, samples, origins.get(name, RANDOM))
    return networks, sum(parameter.numel() for parameter in adapter_parameters(detector))
