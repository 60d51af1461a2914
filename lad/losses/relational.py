"""Relational knowledge distillation: distances and angles between the embeddings of objects."""

from __future__ import annotations

from lad.base.settings import check_numbers
from lad.losses.precision import upcast_pair
from lad.losses.unit_vectors import TINY, unit_vectors
from lad.losses.weighted import WeightedLoss

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor


def relative_distances(embeddings: Tensor) -> Tensor:
    """The distance of each pair, divided by the mean distance of all.

    Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068, Eqs. 5 and 6.

    Args:
        embeddings: (n, C), float32.

    Returns:
        (n (n - 1) / 2,), row by row above the diagonal; zeros where all coincide.
    """
    # Not F.pdist, whose backward pass of nothing kills the process.
    first, second = torch.triu_indices(len(embeddings), len(embeddings), 1, device=embeddings.device)
    _, distances = unit_vectors(embeddings[second] - embeddings[first])
    return distances / (distances.sum() / max(len(distances), 1)).clamp(min=TINY)


def angle_cosines(embeddings: Tensor) -> Tensor:
    """Compute the cosine of the angle at each embedding between each two others.

    Park et al., CVPR 2019, Eq. 8: <e_ij, e_kj> with e_ij = (t_i - t_j) / ||t_i - t_j||.

    Args:
        embeddings: (n, C), float32.

    Returns:
        (n, n, n), indexed by [j, i, k]; 0 where t_i or t_k coincides with t_j.
    """
    direction, _ = unit_vectors(embeddings[None] - embeddings[:, None])
    return direction @ direction.transpose(1, 2)


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """L_RKD-D: Huber's loss of the relative distances, the mean over all pairs; 0 for less than three objects, whose
    one distance is the mean.

    Park et al., CVPR 2019, Eq. 7. The paper adds up; the authors' code has the mean, over every pair and over each
    object with itself, whose distances are 0. This is the mean over the pairs.

    Args:
        student: (n, C), any float dtype.
        teacher: (n, C'); no gradient flows to it.

    Returns:
        A scalar, float32.

    Example:
        >>> import torch
        >>> from lad.losses.relational import distance_loss
        >>> student = torch.tensor([[0.0], [1.0], [2.0]])
        >>> teacher = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
        >>> distance_loss(student, teacher)
        tensor(0.0833)
    """
    student, teacher = upcast_pair(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        own, taught = relative_distances(student), relative_distances(teacher)
    return F.smooth_l1_loss(own, taught, reduction="sum") / max(len(own), 1)


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """L_RKD-A: Huber's loss of the cosines, the mean over all triples of three objects; 0 for less than three.

    Park et al., CVPR 2019, Eq. 9. Takes n^3 products of C numbers: 64 objects of 256 channels are 67 million.

    Args:
        student: (n, C), any float dtype.
        teacher: (n, C'); no gradient flows to it.

    Returns:
        A scalar, float32.

    Example:
        >>> import torch
        >>> from lad.losses.relational import angle_loss
        >>> student = torch.tensor([[0.0], [1.0], [2.0]])
        >>> teacher = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
        >>> angle_loss(student, teacher)
        tensor(0.5400)
    """
    student, teacher = upcast_pair(student, teacher)
    # Products of half precision are too coarse for angles; autocast would choose it.
    with torch.autocast(student.device.type, enabled=False):
        own, taught = angle_cosines(student), angle_cosines(teacher)
    count = len(own)
    # What is 0 or 1 by itself is no angle: the same object twice.
    once = 1 - torch.eye(count, device=own.device)
    triples = once[:, :, None] * once[:, None] * once
    losses = F.smooth_l1_loss(own, taught, reduction="none") * triples
    return losses.sum() / max(count * (count - 1) * (count - 2), 1)


def relational_loss(
    student: Tensor, teacher: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    """lambda_D L_RKD-D + lambda_A L_RKD-A: Park et al., CVPR 2019, Eqs. 7, 9 and 10.

    Neither depends on the scale or the position of the embeddings, nor on a rotation, nor on the order of the objects.

    Args:
        student: Embeddings of n objects, (n, C), any float dtype.
        teacher: Embeddings of the same objects, (n, C'); no gradient flows to them.
        distance_weight: lambda_D.
        angle_weight: lambda_A.

    Returns:
        A scalar, float32; 0 with gradients of 0 for less than three objects.

    Raises:
        ValueError: the numbers of objects differ.

    Example:
        >>> import torch
        >>> from lad.losses import relational_loss
        >>> student = torch.tensor([[0.0], [1.0], [2.0]])
        >>> teacher = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
        >>> relational_loss(student, teacher)
        tensor(29.0833)
    """
    if len(student) != len(teacher):
        raise ValueError(f"embeddings of {len(student)} objects (student) and {len(teacher)} (teacher)")
    return distance_weight * distance_loss(student, teacher) + angle_weight * angle_loss(student, teacher)


@MODELS.register_module()
class RKDLoss(WeightedLoss):
    """:func:`relational_loss` with a weight.

    Args:
        distance_weight: lambda_D; 25 in the paper's classification, 1 in its metric learning.
        angle_weight: lambda_A; 50 in the paper's classification, 2 in its metric learning.
        loss_weight: Factor of the result.

    Example:
        >>> import torch
        >>> from lad.losses import RKDLoss
        >>> student = torch.tensor([[0.0], [1.0], [2.0]])
        >>> teacher = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
        >>> RKDLoss(distance_weight=1.0, angle_weight=2.0)(student, teacher)
        tensor(1.1633)
    """

    made_for = "RelationalDistillation"

    def __init__(
        self, distance_weight: float = 25.0, angle_weight: float = 50.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__("mean", loss_weight)
        check_numbers("RKDLoss", minimum=0, distance_weight=distance_weight, angle_weight=angle_weight)
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]  # it has no elements to weight
        """The loss of embeddings ``pred`` (student) and ``target`` (teacher) of the same objects."""
        return self.loss_weight * relational_loss(pred, target, self.distance_weight, self.angle_weight)
