"""Measure time and memory of nested parts, each excluding the parts inside it."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


class MemoryMeter(ABC):
    """Measures the peak of memory in use since the last reset."""

    #: Description of what is measured.
    kind: str

    def settle(self) -> None:
        """Release unused memory."""
        gc.collect()

    @abstractmethod
    def now(self) -> int:
        """Bytes in use."""

    @abstractmethod
    def reset(self) -> None:
        """Reset the peak."""

    @abstractmethod
    def peak(self) -> int:
        """The most bytes in use since :meth:`reset`."""


class CudaMemory(MemoryMeter):
    """Tensors on a CUDA device."""

    kind = "torch.cuda.max_memory_allocated: tensors on the device"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> int:  # noqa: D102
        return torch.cuda.memory_allocated(self._device)

    def reset(self) -> None:  # noqa: D102
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int:  # noqa: D102
        return torch.cuda.max_memory_allocated(self._device)


class ResidentMemory(MemoryMeter):
    """All of this process's memory, by Linux's account; what the allocator keeps for later counts as used."""

    kind = "peak resident set size of the process"

    @staticmethod
    def is_available() -> bool:
        """Whether the system keeps the account, and lets the peak be reset."""
        try:
            ResidentMemory().reset()
        except OSError:
            return False
        return True

    def settle(self) -> None:  # noqa: D102
        super().settle()
        # The C library keeps what was freed; glibc can return it, others cannot.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

    def _read(self, field: str) -> int:
        found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
        assert found is not None  # Linux names both fields
        return int(found[1]) * 1024

    def now(self) -> int:  # noqa: D102
        return self._read("VmRSS")

    def reset(self) -> None:  # noqa: D102
        Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:  # noqa: D102
        return self._read("VmHWM")


def memory_meter(device: torch.device) -> MemoryMeter | None:
    """Memory meter of a device; None where memory cannot be measured."""
    if device.type == "cuda":
        return CudaMemory(device)
    return ResidentMemory() if device.type == "cpu" and ResidentMemory.is_available() else None


class Stopwatch:
    """Divides the run time of a program among nested parts: time counts for the innermost one.

    Args:
        device: Work queued on a CUDA device is waited for at every change of parts.
        memory: Meter of the peak memory of each part; None for time only.
    """

    def __init__(self, device: torch.device, memory: MemoryMeter | None = None) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.peaks: dict[str, int] = {}
        self.is_paused = False
        self._device = device
        self._memory = memory
        self._inside: list[str] = []
        self._since = 0.0

    def enter(self, part: str) -> None:
        """Begin a part inside the current one."""
        if self.is_paused:
            return
        if not self._inside or self._inside[-1] != part:
            self._charge()
        self._inside.append(part)

    def leave(self) -> None:
        """End the innermost part."""
        if self.is_paused:
            return
        if len(self._inside) < 2 or self._inside[-2] != self._inside[-1]:
            self._charge()
        self._inside.pop()

    @contextmanager
    def part(self, name: str, alone: bool = False) -> Iterator[None]:
        """Context manager of a part; with ``alone``, nested parts are ignored and count for it."""
        self.enter(name)
        before, self.is_paused = self.is_paused, self.is_paused or alone
        try:
            yield
        finally:
            self.is_paused = before
            self.leave()

    def _charge(self) -> None:
        """Add the time since the last change to the innermost part."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        if self._inside:
            part = self._inside[-1]
            self.seconds[part] += time.perf_counter() - self._since
            if self._memory is not None:
                self.peaks[part] = max(self.peaks.get(part, 0), self._memory.peak())
        if self._memory is not None:
            self._memory.reset()
        self._since = time.perf_counter()
