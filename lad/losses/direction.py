"""Distance of the directions of two tensors of features."""

from __future__ import annotations

from lad.losses.feature import check_maps
from lad.losses.precision import upcast_pair
from lad.losses.unit_vectors import unit_vectors

from torch import Tensor


def direction_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two tensors, each divided by its length:  ||f / ||f|| - g / ||g||||^2 / (C H W).

    Args:
        student: (N, C, H, W), any float dtype.
        teacher: (N, C, H, W); no gradient flows to it.

    Returns:
        (N,) float32.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> from lad.losses.direction import direction_distance
        >>> direction_distance(torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 2.0]]]]))  # (1 + 1) / 2
        tensor([1.])
    """
    check_maps(student, teacher)
    student, teacher = (each.flatten(1) for each in upcast_pair(student, teacher))
    return (unit_vectors(student)[0] - unit_vectors(teacher)[0]).square().mean(dim=1)
