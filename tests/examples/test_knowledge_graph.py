"""The example on a knowledge graph: its losses by hand, and a graph of a few triples, without PyKEEN."""

import math
import sys

from lad.losses import contrastive_attention

import pytest
import torch
from helpers import ROOT

sys.path.insert(0, str(ROOT / "examples/knowledge_graph"))
from distillation import mulde_losses
from training import Queries, Settings, all_scores, queries_of, scores_of, train

#: Head, relation, tail: 0 and 1 are parents of 2 and 3, who are siblings.
TRIPLES = torch.tensor([[0, 0, 2], [0, 0, 3], [1, 0, 2], [1, 0, 3], [2, 1, 3], [3, 1, 2]])


class Bilinear(torch.nn.Module):
    """Scores <entity + relation, answer>."""

    def __init__(self, width, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.entities = torch.nn.Parameter(torch.randn(4, width))
            self.relations = torch.nn.Parameter(torch.randn(2, width))
            self.answers = torch.nn.Parameter(torch.randn(4, width))
        self.updates = 0

    def score_t(self, hr):
        return (self.entities[hr[:, 0]] + self.relations[hr[:, 1]]) @ self.answers.T

    def score_h(self, rt):
        return (self.entities[rt[:, 1]] - self.relations[rt[:, 0]]) @ self.answers.T

    def post_parameter_update(self):
        self.updates += 1


def test_queries_have_all_answers_of_the_training_triples():
    queries = queries_of(TRIPLES, 4, 2)
    assert queries.tails.tolist() == [[0, 0], [1, 0], [2, 1], [3, 1]]
    assert queries.heads.tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]
    expected = [[2, 3], [2, 3], [3], [2], [0, 1], [0, 1], [3], [2]]
    assert [row.nonzero().flatten().tolist() for row in queries.labels] == expected
    assert queries.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_scores_of_any_queries_are_those_of_their_direction():
    queries, scorer = queries_of(TRIPLES, 4, 2), Bilinear(3, 0)
    scores = scores_of(scorer, queries, torch.tensor([1, 3, 4, 7]), margin=2.0)
    torch.testing.assert_close(scores[:2], 2 + scorer.score_t(torch.tensor([[1, 0], [3, 1]])))
    torch.testing.assert_close(scores[2:], 2 + scorer.score_h(torch.tensor([[0, 2], [1, 3]])))
    several = all_scores([scorer, Bilinear(3, 1)], queries, 2.0)
    assert several.shape == (8, 2, 4)
    torch.testing.assert_close(several[[1, 3, 4, 7], 0], scores.detach())


def test_losses_by_hand():
    """Two candidates with junior scores 0: BCE 2 log 2. Of two teachers (0, 2) and (0, 0) with open gates the first is
    weighed w = softmax(-KL((1/2, 1/2) || softmax(0, 2)))."""
    far = 0.5 * math.log(0.5 / 0.1192029) + 0.5 * math.log(0.5 / 0.8807971)
    w = math.exp(-far) / (math.exp(-far) + 1)
    junior, labels = torch.zeros(1, 2), torch.tensor([[0.0, 1.0]])
    teachers = torch.tensor([[[0.0, 2.0], [0.0, 0.0]]])
    terms = mulde_losses(junior, teachers, labels, torch.full((1, 2), 100.0))
    assert terms.weights.tolist() == pytest.approx([w, 1 - w], rel=1e-5)
    p = 1 / (1 + math.exp(-2 * w))
    assert terms.own.item() == pytest.approx(2 * math.log(2), rel=1e-5)
    assert terms.gates.item() == pytest.approx(math.log(2) - math.log(p), rel=1e-5)
    divergence = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert terms.divergence.item() == pytest.approx(divergence, rel=1e-4)


def test_without_gates_it_is_the_plain_mean_and_candidates_are_the_juniors_best():
    junior = torch.tensor([[3.0, 0.0, 2.0, -1.0]])
    teachers = torch.tensor([[[1.0, 9.0, 4.0, 9.0], [3.0, 9.0, 0.0, 9.0]]])
    terms = mulde_losses(junior, teachers, torch.zeros(1, 4), None, candidates=2)
    assert terms.weights.tolist() == [0.5, 0.5]
    assert terms.gates == 0
    p = torch.tensor([2.0, 2.0]).softmax(0)  # the mean of (1, 4) and (3, 0)
    q = torch.tensor([3.0, 2.0]).softmax(0)
    assert terms.divergence.item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-5)


def test_attention_is_the_products():
    generator = torch.Generator().manual_seed(0)
    junior, teachers = torch.randn(5, 6, generator=generator), torch.randn(5, 3, 6, generator=generator)
    gates = torch.randn(5, 3, generator=generator)
    terms = mulde_losses(junior, teachers, torch.zeros(5, 6), gates, attention_temperature=0.5)
    expected = contrastive_attention(junior, gates.sigmoid()[:, :, None] * teachers, 0.5).mean((0, 2))
    torch.testing.assert_close(terms.weights, expected)


@pytest.mark.parametrize("arm", ["alone", "mean", "mulde"])
def test_every_arm_learns_the_graph_and_gates_close_for_a_wrong_teacher(arm):
    queries, settings = queries_of(TRIPLES, 4, 2), Settings(epochs=80, batch_size=4, margin=0.0, lr=0.05)
    right = 8 * queries.labels - 4
    teachers = torch.stack([right, -right], dim=1)
    junior = Bilinear(6, 3)
    weights = train(junior, queries, settings, 0, arm, None if arm == "alone" else teachers)
    assert junior.updates == 160
    with torch.no_grad():
        scores = scores_of(junior, queries, torch.arange(8), 0.0)
    assert ((scores > 0) == queries.labels.bool()).float().mean() > 0.9
    if arm == "mulde":
        assert weights[0] > 0.75
    else:
        assert weights == ([] if arm == "alone" else [0.5, 0.5])


def test_a_training_is_repeatable():
    queries, settings = queries_of(TRIPLES, 4, 2), Settings(epochs=2, batch_size=4)
    teachers = all_scores([Bilinear(6, 1)], queries, settings.margin)
    pair = [Bilinear(3, 2) for _ in range(2)]
    for one in pair:
        train(one, queries, settings, 5, "mulde", teachers)
    assert torch.equal(pair[0].entities, pair[1].entities)
    assert isinstance(queries, Queries)
