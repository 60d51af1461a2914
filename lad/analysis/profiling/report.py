"""All that is to be said of a config's networks, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from lad.analysis.profiling.batch import batches, input_shape, random_batch
from lad.analysis.profiling.building import RANDOM, build_offline
from lad.analysis.profiling.complexity import Complexity, complexity_of
from lad.analysis.profiling.step import StepCost, device_of, measure_step
from lad.detectors.inspection import bound_methods, frozen_teachers, trained_networks
from lad.errors import ConfigError

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from torch import nn


@dataclass(frozen=True)
class ModelReport:
    """What a config's networks cost.

    Attributes:
        device: Where it was measured.
        threads: Threads of the CPU.
        batch_size: Images of a training step.
        shape: Height and width of the images, before padding.
        objects: Boxes of each image.
        networks: Each network by its name.
        adapters: Weights of the methods, which are trained with the student and not needed afterwards.
        step: One training step; None if it was not asked for.
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
        """For JSON: bytes, seconds, multiply-adds."""
        return asdict(self)

    def __str__(self) -> str:
        height, width = self.shape
        where = f"{self.device}, {self.threads} threads" if self.device == "cpu" else self.device
        return "\n".join([*self._network_lines(), "", *self._step_lines(where)]).replace(
            "IMAGE", f"one image of {height}x{width} pixels"
        )

    def _network_lines(self) -> list[str]:
        rows = [("network", "detector", "parameters", "trained", "GMACs", "GFLOPs", "weights")]
        for name, own in self.networks.items():
            counts = (f"{own.parameters / 1e6:.2f} M", f"{own.trainable / 1e6:.2f} M")
            work = (f"{own.macs / 1e9:.2f}", f"{own.macs * 2 / 1e9:.2f}")
            rows.append((name, own.detector, *counts, *work, own.weights))
        if self.adapters:
            count = f"{self.adapters / 1e6:.2f} M"
            rows.append(("adapters", "of the methods", count, count, "", "", RANDOM))
        return [
            *_table(rows, left={0, 1, 6}),
            "GMACs: billions of multiply-adds for IMAGE; MMDetection's get_flops.py calls them FLOPs.",
            "GFLOPs: a multiplication and an addition are two.",
        ]

    def _step_lines(self, where: str) -> list[str]:
        if self.step is None:
            return []
        height, width = self.shape
        rows = [("part of a training step", "ms", "range", "share", "peak MB")]
        for part in self.step.parts:
            share = f"{part.seconds / self.step.seconds:.0%}"
            rows.append((part.name, *_times(part), share, _megabytes(part.peak_bytes)))
        rows.append(("whole step", *_times(self.step), "", _megabytes(self.step.peak_bytes)))
        return [
            f"{self.batch_size} images of {height}x{width} pixels, {self.objects} objects each; {where}; medians of "
            f"{self.step.steps} steps",
            *_table(rows, left={0}),
            f"peak MB: {self.step.memory}, above that before the first step.",
        ]


def _times(cost: object) -> tuple[str, str]:
    return f"{cost.seconds * 1e3:.1f}", f"{cost.fastest * 1e3:.1f} to {cost.slowest * 1e3:.1f}"


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:.0f}"


def _table(rows: Sequence[Sequence[str]], left: Iterable[int]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


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
    """Build a config's detector without data and downloads, and measure it.

    Args:
        cfg: Its ``model``; and where there are, its training pipeline, batch size and optimizer.
        shape: Height and width of the images; by default what the training pipeline resizes to.
        batch_size: Images of a training step; by default the training loader's, or 2.
        objects: Boxes of each image.
        steps: How many training steps are timed; 0 for none.
        device: By default the accelerator if there is one.
        random_teacher: Give teachers random weights in any case.

    Raises:
        ConfigError: there is no model or no such device, or sizes are not positive; others as in training.
    """
    if cfg.get("model") is None:
        raise ConfigError("the config has no 'model'.")
    shape = tuple(shape or input_shape(cfg))
    batch_size = batch_size or (cfg.get("train_dataloader") or {}).get("batch_size") or 2
    if min(*shape, batch_size, objects) < 1 or steps < 0:
        raise ConfigError(
            f"sizes must be positive: shape {shape}, batch {batch_size}, objects {objects}, steps {steps}."
        )
    place = device_of(device)
    detector, origins = build_offline(cfg.model, random_teacher)
    # As get_flops.py does: synchronised batch norms ask for several processes.
    detector = revert_sync_batchnorm(detector).to(place)
    settings = dict(
        shape=shape,
        objects=objects,
        # An RPN's one class aside.
        num_classes=max((getattr(module, "num_classes", 0) for module in detector.modules()), default=0) or 1,
        with_masks=any(getattr(module, "with_mask", False) is True for module in detector.modules()),
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


def _networks(detector: nn.Module, origins: dict[str, str], batch: dict) -> tuple[dict[str, Complexity], int]:
    """The complexity of each network of a detector, by its name, and the number of weights of the adapters."""
    flags = detector.training
    data = detector.eval().data_preprocessor(batch, False)
    detector.train(flags)
    arguments = data["inputs"], data["data_samples"]
    trained, teachers = trained_networks(detector), frozen_teachers(detector)
    networks = {
        name or "detector": complexity_of(network, *arguments, RANDOM) for name, network in trained.items()
    }
    for name, teacher in teachers.items():
        networks[name] = complexity_of(teacher.model, *arguments, origins.get(name, RANDOM))
    return networks, sum(
        p.numel() for one in bound_methods(detector).values() for p in one.method.parameters()
    )
