"""How often the teacher is asked, and how long the student is trained on a frame (JITNet, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lad.errors import ConfigError


@dataclass(frozen=True)
class StrideRules:
    """Bounds of online distillation; https://arxiv.org/abs/1812.02699, algorithm 1.

    Attributes:
        min_stride, max_stride: Frames between two that the teacher labels.
        threshold: F1 of the student against the teacher from which on a frame is learnt (the paper's a_thresh).
        max_updates: Training steps on one frame at most (the paper's u_max).

    Raises:
        ConfigError: a number is out of range.
    """

    min_stride: int = 8
    max_stride: int = 64
    threshold: float = 0.9
    max_updates: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.min_stride <= self.max_stride:
            raise ConfigError(
                f"min_stride must be from 1 to max_stride, got {self.min_stride} and {self.max_stride}."
            )
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold must be from 0 to 1, got {self.threshold}.")
        if self.max_updates < 0:
            raise ConfigError(f"max_updates must be at least 0, got {self.max_updates}.")

    def wants_update(self, f1: float, updates: int) -> bool:
        """Whether a frame is trained on once more, after so many updates that led to this F1."""
        return f1 < self.threshold and updates < self.max_updates


@dataclass(frozen=True)
class Stride:
    """When the teacher is asked next.

    Attributes:
        length: Frames from one labelled frame to the next.
        due: Number of the frame from which on the teacher is to label one.
    """

    length: int
    due: int = 0


def first_stride(rules: StrideRules) -> Stride:
    """The stride at the beginning of a stream, whose first frame is labelled."""
    return Stride(rules.min_stride)


def next_stride(rules: StrideRules, stride: Stride, frame: int, f1: float) -> Stride:
    """The stride after a labelled frame: doubled where the student has learnt it, halved where it has not.

    Args:
        rules: The bounds.
        stride: The stride until now.
        frame: Number of the labelled frame.
        f1: Of the student, after its updates.
    """
    length = 2 * stride.length if f1 >= rules.threshold else stride.length // 2
    length = min(max(length, rules.min_stride), rules.max_stride)
    return replace(stride, length=length, due=frame + length)
