"""Diversity of two networks' attention maps: one attends to where the other does not."""

from __future__ import annotations

from lad.losses.attention_transfer import attention_map
from lad.losses.feature import check_maps
from lad.losses.precision import upcast

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_attention(features: Tensor) -> Tensor:
    """Mean over the channels of the squared features, (N, H * W), float32.

    Args:
        features: (N, C, H, W), any float dtype.
    """
    return upcast(features).square().mean(dim=1).flatten(1)


def complementary_attention(attention: Tensor) -> Tensor:
    """Turn an attention map around: its lowest third stays, all above becomes the higher the lower it was.

    Li et al., "Distilling a Powerful Student Model via Online Knowledge Distillation" (FFSD), TNNLS 2022, arXiv
    2103.14473, as their code has it. With the map's norm n, the map of length 1, u, and the highest value t of the
    third of the positions with the lowest: u where u < t, n - u where u > t, n / 2 where u = t.

    Values above t are thus near n and not near 1, while the map they are compared with has length 1
    (:func:`diversity_loss`): the size of the target grows with that of the features.

    Args:
        attention: (N, L), not negative.

    Returns:
        (N, L).

    Example:
        >>> import torch
        >>> from lad.losses.diversity import complementary_attention
        >>> complementary_attention(torch.tensor([[3.0, 0.0, 4.0]]))  # n = 5, u = (0.6, 0, 0.8), t = 0
        tensor([[4.4000, 2.5000, 4.2000]])
    """
    norm = torch.linalg.vector_norm(attention, dim=1, keepdim=True)
    unit = F.normalize(attention, dim=1)
    lowest = max(attention.shape[1] // 3, 1)
    threshold = unit.topk(lowest, dim=1, largest=False).values[:, -1:]
    return norm / 2 + (norm / 2 - unit) * torch.sign(unit - threshold)


def diversity_loss(student: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference of a student's attention map from the complement of another's.

    The student's map has length 1; see :func:`complementary_attention` for the other's (FFSD, arXiv 2103.14473). It is
    computed in float32.

    Args:
        student: (N, C, H, W), any float dtype.
        other: (N, C', H, W); no gradient flows to it.

    Returns:
        (N,) float32.

    Raises:
        ValueError: the sizes differ.

    Example:
        >>> import torch
        >>> from lad.losses import diversity_loss
        >>> student, other = torch.tensor([[[[1.0, 0.0, 0.0]]]]), torch.tensor([[[[3.0, 0.0, 4.0]]]]).sqrt()
        >>> diversity_loss(student, other)  # (3.4^2 + 2.5^2 + 4.2^2) / 3
        tensor([11.8167])
    """
    check_maps(student, other, same_channels=False)
    own = attention_map(student)
    with torch.no_grad():
        target = complementary_attention(mean_attention(other)).to(own.dtype)
    return (own - target).square().mean(dim=1)


@torch.no_grad()
def complementary_features(features: Tensor) -> Tensor:
    """Shift a map's features so that it attends to where it did not.

    To each channel it adds (:func:`complementary_attention` - u) n / C, with n and u as there: FFSD lets a student
    distil itself from such a map of another student (arXiv 2103.14473, their code).

    Args:
        features: (N, C, H, W), any float dtype.

    Returns:
        (N, C, H, W) in the dtype of ``features``, without gradient.

    Example:
        >>> import torch
        >>> from lad.losses import complementary_features
        >>> features = torch.tensor([[[[3.0, 0.0, 4.0]]]]).sqrt()  # attention (3, 0, 4)
        >>> complementary_features(features) - features  # 5 ((4.4, 2.5, 4.2) - (0.6, 0, 0.8))
        tensor([[[[19.0000, 12.5000, 17.0000]]]])
    """
    attention = mean_attention(features)
    norm = torch.linalg.vector_norm(attention, dim=1, keepdim=True)
    shift = (complementary_attention(attention) - F.normalize(attention, dim=1)) * norm / features.shape[1]
    return (upcast(features) + shift.view(len(features), 1, *features.shape[-2:])).to(features.dtype)
