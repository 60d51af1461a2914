"""Agreement of two views of an image on its relations to other images (FedX)."""

from __future__ import annotations

from lad.losses.precision import upcast
from lad.losses.unit_vectors import unit_vectors

import torch
import torch.nn.functional as F
from torch import Tensor


def relation_agreement_loss(
    first: Tensor,
    second: Tensor,
    references: Tensor,
    temperature: float = 0.1,
    target_temperature: float = 0.1,
) -> Tensor:
    """KL divergence of the relations of each of two views from the mean of both, averaged over the views.

    Han et al., "FedX: Unsupervised Federated Learning with Cross Knowledge Distillation", ECCV 2022, arXiv 2207.09158,
    Sec. 3.3. The relations p_k of view k are the softmax, at a temperature T, of the cosines of its embedding with the
    embeddings of M other images, the references. With m the mean of both views' relations at a temperature T_m:

        1/2 sum_k sum_j m_j log(m_j / p_kj).

    m is constant. In the authors' code it has a gradient, so that both relations are drawn to a target that they move.

    Args:
        first: (N, D) embeddings of the first view of N images, any float dtype.
        second: (N, D) those of the second view.
        references: (M, D) those of other images. A gradient flows to them, unless they are detached.
        temperature: T, above 0.
        target_temperature: T_m, above 0.

    Returns:
        (N,), float32; 0 where the two views' relations are equal and T = T_m.

    Raises:
        ValueError: the shapes do not belong together, or a temperature is not positive.

    Example:
        >>> import torch
        >>> from lad.losses import relation_agreement_loss
        >>> references, same = torch.eye(2), torch.ones(1, 2)
        >>> relation_agreement_loss(same, same, references), relation_agreement_loss(same, references[:1], references)
        (tensor([0.]), tensor([1.0343]))
    """
    if not min(temperature, target_temperature) > 0:
        raise ValueError(f"temperatures must be positive, got {temperature!r} and {target_temperature!r}")
    if first.dim() != 2 or first.shape != second.shape or references.shape[1:] != first.shape[1:]:
        raise ValueError(
            f"views have embeddings of shapes {tuple(first.shape)} and {tuple(second.shape)}, references of "
            f"{tuple(references.shape)}"
        )
    # Autocast would take the product in half precision.
    with torch.autocast(first.device.type, enabled=False):
        views, references = upcast(torch.stack([first, second])), upcast(references)
        cosines = unit_vectors(views)[0] @ unit_vectors(references)[0].T
    target = (cosines.detach() / target_temperature).softmax(dim=-1).mean(dim=0)
    log_relations = (cosines / temperature).log_softmax(dim=-1)
    # `kl_div` takes the logarithm of a target of 0 as its limit.
    return F.kl_div(log_relations, target.expand_as(log_relations), reduction="none").sum(dim=-1).mean(dim=0)
