"""Vectors of length 1, with gradients that stay bounded where there is nothing to normalise."""

from __future__ import annotations

from torch import Tensor

#: Vectors no longer than this have no direction.
TINY = 1e-12


def unit_vectors(vectors: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """Vectors at length 1, and their lengths; both 0, with gradients of 0, where no longer than :data:`TINY`.

    ``torch.nn.functional.normalize`` has a gradient of 1 / eps there: a dead image or unit would move a student by
    1e12.

    Args:
        vectors: Any shape, float32 or float64.
        dim: The dimension of a vector's components.

    Returns:
        The unit vectors, in the shape of ``vectors``, and the lengths, without ``dim``.

    Example:
        >>> import torch
        >>> from lad.losses.unit_vectors import unit_vectors
        >>> unit_vectors(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        (tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]]), tensor([5., 0.]))
    """
    squared = vectors.square().sum(dim=dim, keepdim=True)
    nowhere = squared <= TINY**2
    length = squared.masked_fill(nowhere, 1).sqrt()
    return vectors.masked_fill(nowhere, 0) / length, length.masked_fill(nowhere, 0).squeeze(dim)
