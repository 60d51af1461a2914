"""Divergence of two networks' similarities between views of images (DoGo)."""

from __future__ import annotations

from lad.losses.knowledge_distillation import kl_divergence
from lad.losses.precision import upcast
from lad.losses.unit_vectors import unit_vectors

import torch
from torch import Tensor


def similarity_divergence(
    first: Tensor, second: Tensor, taught_first: Tensor, taught_second: Tensor, temperature: float = 0.1
) -> Tensor:
    """KL divergence of a teacher's similarities of images from a network's own, for each first view.

    Bhat et al., "Distill on the Go: Online Knowledge Distillation in Self-Supervised Learning" (DoGo), CVPR workshops
    2021, arXiv 2104.09866, Sec. 3. With s_ij the cosine of the first view of image i and the second view of image j,
    P_i = softmax over j of s_ij / T; the loss of image i is  sum_j P_ij(teacher) log(P_ij(teacher) / P_ij(own)). The
    similarity of the two views of the same image is one of them, as in the authors' code. There is no factor T^2.

    The authors' code averages the N x N terms instead of the N sums: what is 1 there is 1 / N here.

    Args:
        first: (N, D) embeddings of the first view of N images, any float dtype.
        second: (M, D) those of the second view of M images, such as those of all processes of a training.
        taught_first: (N, E) the teacher's; no gradient flows to it. Its embeddings may be of another width.
        taught_second: (M, E) likewise.
        temperature: T, above 0.

    Returns:
        (N,), float32.

    Raises:
        ValueError: the shapes do not belong together, or the temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses import similarity_divergence
        >>> images, equal = torch.eye(2), torch.ones(2, 2)
        >>> similarity_divergence(equal, equal, images, images, temperature=1.0)
        tensor([0.1109, 0.1109])
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature!r}")
    own = _cosines(first, second) / temperature
    taught = _cosines(taught_first, taught_second) / temperature
    if own.shape != taught.shape:
        raise ValueError(
            f"the network has similarities of shape {tuple(own.shape)} and its teacher of {tuple(taught.shape)}"
        )
    return kl_divergence(own, taught)


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    """(N, M) cosines of (N, D) and (M, D)."""
    if first.dim() != 2 or second.dim() != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"two views have embeddings of shapes {tuple(first.shape)} and {tuple(second.shape)}"
        )
    # Autocast would take the product in half precision.
    with torch.autocast(first.device.type, enabled=False):
        return unit_vectors(upcast(first))[0] @ unit_vectors(upcast(second))[0].T
