"""Train a scorer of a knowledge graph's entities, alone or taught by several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lad.losses import attention_temperature

import torch
import torch.nn.functional as F
from distillation import Arm, mulde_losses
from torch import Tensor, nn


class Scorer(Protocol):
    """What is trained: a module that scores every entity as the answer of a query."""

    def score_t(self, hr_batch: Tensor) -> Tensor:
        """(n, E) scores of the tails of (n, 2) heads and relations."""

    def score_h(self, rt_batch: Tensor) -> Tensor:
        """(n, E) scores of the heads of (n, 2) relations and tails."""

    def post_parameter_update(self) -> None:
        """Called after each step of the optimizer."""


@dataclass(frozen=True)
class Queries:
    """The queries of a graph, those for tails before those for heads.

    Attributes:
        tails: (a, 2) heads and relations.
        heads: (b, 2) relations and tails.
        labels: (a + b, E), 1 for the answers in the training triples.
        groups: (a + b,) relation and direction of each query, for the gates.
    """

    tails: Tensor
    heads: Tensor
    labels: Tensor
    groups: Tensor


@dataclass(frozen=True)
class Settings:
    """Settings of a training.

    Attributes:
        epochs: Passes over all queries.
        batch_size: Queries of a step, for tails and for heads.
        lr: Learning rate of Adam.
        margin: Added to the scores, which are distances below 0: a score of 0 is a probability of one half.
        candidates: K of MulDE.
        loss_weight: lambda of MulDE.
        attention_epochs: The temperature of the attention is e^floor(epoch / attention_epochs), and
        max_attention_temperature: at most this.
    """

    epochs: int = 40
    batch_size: int = 128
    lr: float = 0.1
    margin: float = 6.0
    candidates: int = 500
    loss_weight: float = 0.5
    attention_epochs: int = 5
    max_attention_temperature: float | None = 2.718281828459045


def queries_of(triples: Tensor, num_entities: int, num_relations: int) -> Queries:
    """The queries that (n, 3) triples of head, relation and tail answer."""
    tails, of_tail = triples[:, :2].unique(dim=0, return_inverse=True)
    heads, of_head = triples[:, 1:].unique(dim=0, return_inverse=True)
    labels = torch.zeros(len(tails) + len(heads), num_entities)
    labels[of_tail, triples[:, 2]] = 1
    labels[len(tails) + of_head, triples[:, 0]] = 1
    return Queries(tails, heads, labels, torch.cat([tails[:, 1], num_relations + heads[:, 0]]))


def scores_of(scorer: Scorer, queries: Queries, index: Tensor, margin: float) -> Tensor:
    """(n, E) scores of the queries of an ascending index."""
    is_tail = index < len(queries.tails)
    rows = queries.tails[index[is_tail]], queries.heads[index[~is_tail] - len(queries.tails)]
    return margin + torch.cat([scorer.score_t(rows[0]), scorer.score_h(rows[1])])


@torch.no_grad()
def all_scores(scorers: Sequence[Scorer], queries: Queries, margin: float) -> Tensor:
    """(Q, M, E) scores of every query by every scorer; they are frozen, so once is enough."""
    index = torch.arange(len(queries.labels))
    parts = [[scores_of(scorer, queries, part, margin) for part in index.split(512)] for scorer in scorers]
    return torch.stack([torch.cat(part) for part in parts], dim=1)


def train(
    scorer: Scorer,
    queries: Queries,
    settings: Settings,
    seed: int,
    arm: Arm = "alone",
    teachers: Tensor | None = None,
) -> list[float]:
    """Train a scorer; with the same seed every arm sees the same batches.

    Args:
        scorer: An ``nn.Module`` too; trained in place.
        queries: Of the training triples.
        settings: Of the training.
        seed: Of the order of the queries.
        arm: How it learns.
        teachers: (Q, M, E) of :func:`all_scores`; None for ``'alone'``.

    Returns:
        The mean weight of each teacher in the last epoch; none for ``'alone'``.
    """
    assert isinstance(scorer, nn.Module)
    generator = torch.Generator().manual_seed(seed)
    trained = [*scorer.parameters()]
    gates = None
    if arm == "mulde":
        assert teachers is not None
        gates = nn.Parameter(torch.ones(int(queries.groups.max()) + 1, teachers.shape[1]))
        trained.append(gates)
    optimizer = torch.optim.Adam(trained, lr=settings.lr)
    scorer.train()
    weights: list[Tensor] = []
    for epoch in range(settings.epochs):
        weights = []
        attention = attention_temperature(
            epoch, settings.attention_epochs, settings.max_attention_temperature
        )
        order = torch.randperm(len(queries.labels), generator=generator)
        for index in order.split(settings.batch_size):
            index = index.sort().values
            scores, labels = scores_of(scorer, queries, index, settings.margin), queries.labels[index]
            if arm == "alone" or teachers is None:
                loss = F.binary_cross_entropy_with_logits(scores, labels, reduction="sum") / len(index)
            else:
                own = None if gates is None else gates[queries.groups[index]]
                terms = mulde_losses(scores, teachers[index], labels, own, settings.candidates, attention)
                loss = terms.own + terms.gates + settings.loss_weight * terms.divergence
                weights.append(terms.weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scorer.post_parameter_update()
    scorer.eval()
    return torch.stack(weights).mean(0).tolist() if weights else []
