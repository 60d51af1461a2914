"""Masked generative distillation loss."""

from __future__ import annotations

from lad.losses.feature import FeatureLoss, check_maps
from lad.losses.hint import hint_loss

from mmdet.registry import MODELS
from torch import Tensor


def generation_loss(generated: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of generated and teacher features, summed per image:  sum_c,h,w (T - G)^2.

    Yang et al., "Masked Generative Distillation", ECCV 2022, arXiv 2205.01529, Sec. 3.2. G is what the generation block
    makes of the student's map with positions left out: :class:`lad.networks.connectors.MaskedGenerationConnector`.

    Args:
        generated: (N, C, H, W), any float dtype.
        teacher: (N, C, H, W); no gradient flows to it.

    Returns:
        (N,) float32. The authors' code, too, adds up over a map and averages over the images, so that their weights are
        those of :class:`MGDLoss`.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> from lad.losses import generation_loss
        >>> student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        >>> generation_loss(student, teacher)
        tensor([2.])
    """
    check_maps(generated, teacher)
    return hint_loss(generated, teacher).flatten(1).sum(dim=1)


@MODELS.register_module()
class MGDLoss(FeatureLoss):
    """:func:`generation_loss`, averaged over the images; with its generation block as connector.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over the images.
        loss_weight: Factor of the result. The paper has 2e-5 and leaves 0.65 of the positions out for one-stage
            detectors, 5e-7 and 0.45 for two-stage ones.

    Example:
        >>> import torch
        >>> from lad.losses import MGDLoss
        >>> student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        >>> MGDLoss(loss_weight=0.5)(student, teacher)
        tensor(1.)
    """

    connector = dict(type="MaskedGenerationConnector")

    def __init__(self, reduction: str = "mean", loss_weight: float = 2e-5) -> None:
        super().__init__(reduction, loss_weight)

    def elements(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N,) the loss of each image, of the generated maps and the teacher's."""
        return generation_loss(pred, target)
