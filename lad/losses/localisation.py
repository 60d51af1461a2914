"""Localisation distillation: KL divergence of box edge distributions."""

from __future__ import annotations

from lad.base.settings import check_numbers
from lad.losses.knowledge_distillation import kl_divergence
from lad.losses.weighted import WeightedLoss

from mmdet.registry import MODELS
from torch import Tensor


def localisation_distillation_loss(
    student: Tensor, teacher: Tensor, temperature: float = 10.0, average_bins: bool = True
) -> Tensor:
    """KL divergence of two heads' edge distributions, averaged over the four edges of a box.

    With the distribution P_e = softmax(logits_e / T) of edge e over the n + 1 distances a head discriminates:
    L = 1/4 sum_e T^2 KL(P_e of the teacher || P_e of the student) / (n + 1). Zheng et al., "Localization Distillation
    for Dense Object Detection", CVPR 2022, arXiv 2102.12252, Eqs. 3 and 4. The paper adds up edges and distances, the
    authors' code and MMDetection's ``LDHead`` average both (their weights are made for that), as it is done here.

    Args:
        student: (n, 4, bins) logits of the distances to left, top, right and bottom edge; any float dtype.
        teacher: (n, 4, bins) logits; no gradient flows to them.
        temperature: T, above 0; the paper's 10.
        average_bins: Whether to divide by the number of bins; without, it is the KL divergence itself.

    Returns:
        (n,) float32, the loss of each box.

    Raises:
        ValueError: the shapes differ or are others, or the temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses import localisation_distillation_loss
        >>> student = torch.zeros(1, 4, 3)
        >>> teacher = torch.tensor([0.0, 1.0, 0.0]).expand(1, 4, 3)
        >>> localisation_distillation_loss(student, teacher, temperature=1.0)
        tensor([0.0411])
    """
    if student.dim() != 3 or student.shape[1] != 4:
        raise ValueError(f"need (n, 4, bins) logits of the edges, got {tuple(student.shape)}")
    loss = kl_divergence(student, teacher, temperature).mean(dim=1)
    return loss / student.shape[2] if average_bins else loss


@MODELS.register_module()
class LDLoss(WeightedLoss):
    """:func:`localisation_distillation_loss` with a weight and a reduction.

    Args:
        temperature: T.
        average_bins: Whether to divide by the number of bins.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``, of boxes.
        loss_weight: Factor of the result.

    Example:
        >>> import torch
        >>> from lad.losses import LDLoss
        >>> student = torch.zeros(1, 4, 3)
        >>> teacher = torch.tensor([0.0, 1.0, 0.0]).expand(1, 4, 3)
        >>> LDLoss(loss_weight=0.25)(student, teacher)
        tensor(0.0095)
    """

    made_for = "LocalisationDistillation or CrossHeadDistillation"

    def __init__(
        self,
        temperature: float = 10.0,
        average_bins: bool = True,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(reduction, loss_weight)
        check_numbers(type(self).__name__, above=0, temperature=temperature)
        self.temperature = temperature
        self.average_bins = average_bins

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """(n,) the loss of each box, of the (n, 4, bins) logits of student and teacher."""
        return localisation_distillation_loss(pred, target, self.temperature, self.average_bins)
