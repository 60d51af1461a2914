"""Accuracy of a k-nearest-neighbour classifier on features."""

from __future__ import annotations

from lad.losses.precision import upcast

import torch
import torch.nn.functional as F
from torch import Tensor

#: Rows of similarities that are computed at a time: bounds the memory.
ROWS = 1024


@torch.no_grad()
def knn_accuracy(
    features: Tensor, labels: Tensor, groups: Tensor, neighbours: int = 20, temperature: float = 0.1
) -> float:
    """Part of the samples whose class their nearest neighbours of other groups vote for.

    Cosine similarity; each of the ``neighbours`` nearest votes for its class with exp(similarity / temperature), as in
    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, arXiv 1805.01978,
    Sec. 3.4. Samples of the same group, such as objects of one image, do not vote.

    Args:
        features: (n, D), any float dtype.
        labels: (n,) int64 classes, from 0.
        groups: (n,) int64.
        neighbours: How many vote; fewer where there are not so many of other groups.
        temperature: Above 0.

    Returns:
        0 to 1; the lower class wins a draw. A sample with no neighbour of another group counts as wrong.

    Raises:
        ValueError: there is no sample.

    Example:
        >>> import torch
        >>> from lad.evaluation.neighbours import knn_accuracy
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> knn_accuracy(features, torch.tensor([0, 0, 1, 0]), torch.arange(4), neighbours=1)
        0.5
    """
    if not len(features):
        raise ValueError("there is no sample to classify")
    features = F.normalize(upcast(features), dim=1)
    votes_for = F.one_hot(labels).to(features.dtype)
    count = min(neighbours, len(features))
    right = labels.new_zeros(())
    # In parts: all similarities at once would be n^2.
    for own, group, label in zip(*(each.split(ROWS) for each in (features, groups, labels)), strict=True):
        similarity = own @ features.T
        similarity = similarity.masked_fill(group[:, None] == groups, -torch.inf)
        nearest = similarity.topk(count, dim=1)
        weight = (nearest.values / temperature).exp()  # 0 for those of the same group
        votes = (weight[:, :, None] * votes_for[nearest.indices]).sum(dim=1)
        right += ((votes.argmax(dim=1) == label) & (votes.amax(dim=1) > 0)).sum()
    return right.item() / len(features)
