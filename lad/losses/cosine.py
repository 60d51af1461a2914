"""Cosine distance of feature vectors."""

from __future__ import annotations

from lad.losses.feature import FeatureLoss, check_maps
from lad.losses.precision import upcast_pair

import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

#: Lengths below this count as this: the gradient of a vector that is all but 0 stays bounded.
EPS = 1e-4


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine of the angle between two vectors:  1 - f_S . f_T / (||f_S|| ||f_T||).

    The distillation loss of Iscen et al., "Class-Balanced Distillation for Long-Tailed Visual Recognition", BMVC 2021,
    arXiv 2104.05279; with several teachers f_T is [f_T1, ..., f_TM].

    Args:
        student: (n, C), any float dtype.
        teacher: (n, C); no gradient flows to it.

    Returns:
        (n,) in [0, 2], float32, or float64 where the student's is; 1 where one of the vectors is 0.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> from lad.losses import cosine_distance
        >>> cosine_distance(torch.tensor([[3.0, 4.0], [2.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 1.0]]))
        tensor([0.4000, 1.0000])
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"vectors of shape {tuple(student.shape)} (student) and {tuple(teacher.shape)} (teacher)"
        )
    student, teacher = upcast_pair(student, teacher)
    return 1 - F.cosine_similarity(student, teacher, dim=1, eps=EPS)


@MODELS.register_module()
class CosineLoss(FeatureLoss):
    """:func:`cosine_distance` at each position of two feature maps, with a weight and a reduction.

    It compares directions, not lengths: for teachers whose features have another scale, such as foundation models
    (Liao et al., "RT-DETRv4", arXiv 2510.25257: the mean over all positions).

    Args:
        reduction: ``'none'``, ``'mean'`` (over positions and images) or ``'sum'``.
        loss_weight: Factor of the result.

    Example:
        >>> import torch
        >>> from lad.losses import CosineLoss
        >>> student = torch.tensor([[3.0, 2.0], [4.0, 0.0]]).view(1, 2, 1, 2)  # (3, 4) and (2, 0)
        >>> teacher = torch.tensor([[5.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)  # (5, 0) and (0, 1)
        >>> CosineLoss()(student, teacher)
        tensor(0.7000)
    """

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N, H, W) the distance at each position of maps (N, C, H, W)."""
        check_maps(pred, target)
        positions = [maps.movedim(1, -1) for maps in (pred, target)]
        flat = cosine_distance(*(maps.flatten(0, -2) for maps in positions))
        return flat.view(positions[0].shape[:-1])
