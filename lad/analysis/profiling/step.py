"""Time and memory of a training step, part by part."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from lad.analysis.profiling import parts
from lad.analysis.profiling.stopwatch import Stopwatch, memory_meter
from lad.base.progress import LATE_EPOCH
from lad.base.replace import replaced
from lad.errors import ConfigError

import torch
from mmdet.models.detectors import BaseDetector
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper


@dataclass(frozen=True)
class PartCost:
    """One part of a training step.

    Attributes:
        name: What it is.
        seconds: Median over the steps, without what other parts take inside of it.
        fastest, slowest: The range over the steps.
        peak_bytes: The most memory while it ran, above that before the first step; None where none is measured.
    """

    name: str
    seconds: float
    fastest: float
    slowest: float
    peak_bytes: int | None


@dataclass(frozen=True)
class StepCost:
    """A training step.

    Attributes:
        parts: Its parts; those that took no time are left out.
        seconds: Median over the steps.
        fastest, slowest: The range over the steps.
        peak_bytes: The most memory in a step, above that before the first; None where none is measured.
        memory: How memory is measured.
        steps: How many steps were timed.
    """

    parts: tuple[PartCost, ...]
    seconds: float
    fastest: float
    slowest: float
    peak_bytes: int | None
    memory: str
    steps: int


def measure_step(
    detector: BaseDetector,
    optim_wrapper: OptimWrapper,
    batches: Iterator[dict],
    steps: int = 5,
    warmup: int = 2,
) -> StepCost:
    """Train some steps and share their time and memory out among the parts.

    Memory is measured in one more step, which is not timed. On a CUDA device every part waits for the device, so the
    parts add up to more than a step that overlaps them.

    Args:
        detector: The detector; it is trained.
        optim_wrapper: Its optimizer.
        batches: Gives batches as they come from a data loader.
        steps: How many are timed.
        warmup: How many go before.
    """
    device = next(detector.parameters()).device
    detector.train()
    # As late as it gets: TOOD has its own assigner, methods have pretrained.
    MessageHub.get_current_instance().update_info("epoch", LATE_EPOCH)
    if getattr(detector, "pretraining", None) is not None:
        with replaced(detector, "loss", partial(detector.loss_at, detector.pretraining.end)):
            return _measured(detector, optim_wrapper, batches, steps, warmup, device)
    return _measured(detector, optim_wrapper, batches, steps, warmup, device)


def _measured(
    detector: BaseDetector,
    optim_wrapper: OptimWrapper,
    batches: Iterator[dict],
    steps: int,
    warmup: int,
    device: torch.device,
) -> StepCost:
    meter = memory_meter(device)
    if meter is not None:
        meter.settle()
    before = meter.now() if meter is not None else 0
    for _ in range(warmup):
        _step(detector, optim_wrapper, next(batches), Stopwatch(device))
    timed = [Stopwatch(device) for _ in range(steps)]
    for watch in timed:
        _step(detector, optim_wrapper, next(batches), watch)
    weighed = Stopwatch(device, meter)
    if meter is not None:
        batch = next(batches)
        meter.settle()
        _step(detector, optim_wrapper, batch, weighed)
    peaks = {name: max(peak - before, 0) for name, peak in weighed.peaks.items()}
    whole = [sum(watch.seconds.values()) for watch in timed]
    names = [
        name for name in parts.part_order(detector) if any(watch.seconds.get(name, 0.0) for watch in timed)
    ]
    return StepCost(
        parts=tuple(
            PartCost(name, *_summary([watch.seconds.get(name, 0.0) for watch in timed]), peaks.get(name))
            for name in names
        ),
        **dict(zip(("seconds", "fastest", "slowest"), _summary(whole), strict=True)),
        peak_bytes=max(peaks.values(), default=None),
        memory=meter.kind if meter is not None else "not measured on this device",
        steps=steps,
    )


def _step(detector: BaseDetector, optim_wrapper: OptimWrapper, batch: dict, watch: Stopwatch) -> None:
    """As ``BaseModel.train_step``, with its optimizer step taken apart."""
    with parts.watched(detector, watch), watch.part(parts.OTHER):
        with optim_wrapper.optim_context(detector):
            with watch.part(parts.PREPROCESSING, alone=True):
                data = detector.data_preprocessor(batch, True)
            losses = detector(**data, mode="loss")
        total, _ = detector.parse_losses(losses)
        # Alone: checkpointed blocks run forward once more in it.
        with watch.part(parts.BACKWARD, alone=True):
            optim_wrapper.backward(optim_wrapper.scale_loss(total))
        with watch.part(parts.OPTIMIZER, alone=True):
            optim_wrapper.step()
            optim_wrapper.zero_grad()


def _summary(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def device_of(name: str | None) -> torch.device:
    """The device of a name; by default the accelerator if there is one.

    Raises:
        ConfigError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # not 'meta' either, which computes nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0].rstrip(".")
        raise ConfigError(f"device {name!r} cannot be used: {reason}.") from error
    return device
