"""Losses of MulDE on a knowledge graph, with the functions that distil detectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lad.losses import contrastive_attention, fuse_scores, gate_scores, known_divergence

import torch.nn.functional as F
from torch import Tensor

#: How the junior learns: from its labels alone, from the plain mean of its teachers, or as MulDE.
Arm = Literal["alone", "mean", "mulde"]


@dataclass(frozen=True)
class Losses:
    """The terms of a batch of queries.

    Attributes:
        own: BCE of the junior's scores on the labels, summed over the candidates, mean over the queries.
        gates: Likewise that of the teachers' fused scores, which trains the gates; 0 without.
        divergence: KL of the junior's distribution over its candidates from the teachers', mean over the queries.
        weights: (M,) mean weight of each teacher.
    """

    own: Tensor
    gates: Tensor
    divergence: Tensor
    weights: Tensor


def mulde_losses(
    junior: Tensor,
    teachers: Tensor,
    labels: Tensor,
    gates: Tensor | None,
    candidates: int = 500,
    attention_temperature: float = 1.0,
    temperature: float = 1.0,
) -> Losses:
    """The terms of MulDE for queries (head, relation, ?) or (?, relation, tail).

    Args:
        junior: (n, E) scores of the entities by the junior.
        teachers: (n, M, E) scores by M teachers.
        labels: (n, E), 1 for the entities that answer a query.
        gates: (n, M) logits of the gates of each query's relation. None: no gates, and the plain mean of the teachers.
        candidates: K, the entities with the junior's highest scores; fewer where there are not so many.
        attention_temperature: Of the contrastive attention.
        temperature: T of the KL.
    """
    chosen = junior.detach().topk(min(candidates, junior.shape[1]), dim=1, sorted=False).indices
    near, target = junior.gather(1, chosen), labels.gather(1, chosen)
    scores = teachers.gather(2, chosen[:, None].expand(-1, teachers.shape[1], -1))
    if gates is None:
        gated, attention_temperature = scores, math.inf
    else:
        gated = gate_scores(scores, gates[:, :, None])
    weights = contrastive_attention(near, gated, attention_temperature)
    fused = fuse_scores(gated, weights)
    by_fused = F.binary_cross_entropy_with_logits(fused, target, reduction="sum") / len(junior)
    return Losses(
        own=F.binary_cross_entropy_with_logits(junior, labels, reduction="sum") / len(junior),
        gates=by_fused if gates is not None else by_fused.new_zeros(()),
        divergence=known_divergence(near, fused.detach(), temperature=temperature).mean(),
        weights=weights.mean(dim=(0, 2)),
    )
