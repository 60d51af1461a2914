"""Similarity-preserving distillation loss."""

from __future__ import annotations

from lad.losses.feature import FeatureLoss
from lad.losses.precision import upcast, upcast_pair
from lad.losses.unit_vectors import unit_vectors

import torch
from mmdet.registry import MODELS
from torch import Tensor


def batch_similarity(features: Tensor) -> Tensor:
    """Compute the similarity of each pair of images: Q Q^T with rows of length 1, an image's features in a row of Q.

    Args:
        features: (N, ...), any float dtype.

    Returns:
        (N, N), float32.
    """
    # Products of half precision overflow when they are added up over a whole map; autocast would choose it.
    with torch.autocast(features.device.type, enabled=False):
        flat = upcast(features).flatten(1)
        return unit_vectors(flat @ flat.T)[0]


def similarity_preserving_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the two networks' similarities for each pair of images; 0 for a batch of one.

    Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv 1907.09682, Eqs. 2 to 4:
    with G = :func:`batch_similarity`, L_SP = 1/N^2 ||G_t - G_s||_F^2, which is the mean of what is returned here.

    Args:
        student: Features of N images, (N, ...), any float dtype.
        teacher: Features of the same images, (N, ...); channels and resolution may be others. No gradient flows to
            them.

    Returns:
        (N, N), float32.

    Raises:
        ValueError: the numbers of images differ.

    Example:
        >>> import torch
        >>> from lad.losses import similarity_preserving_loss
        >>> student, teacher = torch.eye(2), torch.tensor([[3.0, 0.0], [4.0, 0.0]])
        >>> similarity_preserving_loss(student, teacher)
        tensor([[0.1600, 0.6400],
                [0.3600, 0.0400]])
    """
    if len(student) != len(teacher):
        raise ValueError(f"features of {len(student)} images (student) and {len(teacher)} (teacher)")
    student, teacher = upcast_pair(student, teacher)
    return (batch_similarity(student) - batch_similarity(teacher)).square()


@MODELS.register_module()
class SimilarityPreservingLoss(FeatureLoss):
    """:func:`similarity_preserving_loss` with a weight and a reduction, called as MMDetection's losses are.

    Args:
        reduction: ``'none'``, ``'mean'`` (the paper's) or ``'sum'``.
        loss_weight: Factor of the result.

    Example:
        >>> import torch
        >>> from lad.losses import SimilarityPreservingLoss
        >>> student, teacher = torch.eye(2), torch.tensor([[3.0, 0.0], [4.0, 0.0]])
        >>> SimilarityPreservingLoss()(student, teacher)
        tensor(0.3000)
    """

    same_channels = False
    maps_only = False
    any_shape = True

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N, N) the loss of each pair of images, of the features of student and teacher."""
        return similarity_preserving_loss(pred, target)
