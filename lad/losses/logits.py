"""What the losses between two networks' logits share."""

from __future__ import annotations

from lad.losses.precision import upcast_pair

from torch import Tensor


def prepared_logits(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits of the student and, without gradient, of the teacher, both in float32.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"logits of shape {tuple(student.shape)} (student) and {tuple(teacher.shape)} (teacher)"
        )
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return upcast_pair(student, teacher)
