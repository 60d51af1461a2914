"""Contrastive loss of two views of images (NT-Xent)."""

from __future__ import annotations

from lad.losses.precision import upcast
from lad.losses.unit_vectors import unit_vectors

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent_loss(
    first: Tensor,
    second: Tensor,
    temperature: float = 0.1,
    candidates: Tensor | None = None,
    start: int = 0,
) -> Tensor:
    """Normalised temperature-scaled cross-entropy of two views of N images, for each of the 2 N embeddings.

    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (SimCLR), ICML 2020, arXiv
    2002.05709, Eq. 1: with the cosine s of two embeddings, i and j the two views of an image and k every embedding but
    i itself,  l_i = -log(exp(s_ij / T) / sum_k exp(s_ik / T)).  The paper's loss is the mean of what is returned here;
    the authors' code adds the means of both views up, which is twice as much. Computed in float32.

    Args:
        first: (N, D) embeddings of the first view of each image, any float dtype.
        second: (N, D) those of the second view.
        temperature: T, above 0.
        candidates: (2, M, D): both views of M images, these N among them, such as those of all processes of a training;
            by default these N alone. Gradients flow to all three.
        start: Index of the first of the N images in ``candidates``.

    Returns:
        (2 N,), float32: of the first views, then of the second ones. 0 where there is no other image.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses import nt_xent_loss
        >>> first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> nt_xent_loss(first, first, temperature=1.0)
        tensor([0.5514, 0.5514, 0.5514, 0.5514])
    """
    if first.shape != second.shape or first.dim() != 2:
        raise ValueError(
            f"two views have embeddings of shapes {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature!r}")
    # Autocast would take the product in half precision.
    with torch.autocast(first.device.type, enabled=False):
        own = unit_vectors(torch.cat([upcast(first), upcast(second)]))[0]
        every = own if candidates is None else unit_vectors(upcast(candidates).flatten(0, 1))[0]
        cosines = own @ every.T
        count, total = len(first), len(every) // 2
        images = torch.arange(start, start + count, device=first.device)
        itself, other_view = torch.cat([images, images + total]), torch.cat([images + total, images])
        is_itself = itself[:, None] == torch.arange(2 * total, device=first.device)
        logits = (cosines / temperature).masked_fill(is_itself, -torch.inf)
        return F.cross_entropy(logits, other_view, reduction="none")
