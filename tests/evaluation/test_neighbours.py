"""Accuracy of a k-nearest-neighbour classifier."""

import math

from lad.evaluation.neighbours import knn_accuracy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


def by_hand(features, labels, groups, neighbours, temperature):
    """Sample by sample, vote by vote."""
    right = 0
    for i, own in enumerate(features):
        others = [
            (torch.cosine_similarity(own, other, dim=0).item(), labels[j].item())
            for j, other in enumerate(features)
            if groups[j] != groups[i]
        ]
        votes = {}
        for similarity, label in sorted(others, reverse=True)[:neighbours]:
            votes[label] = votes.get(label, 0.0) + math.exp(similarity / temperature)
        right += bool(votes) and max(votes, key=votes.get) == labels[i].item()
    return right / len(features)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 40))
def test_accuracy_is_that_of_the_votes_counted_one_by_one(seed, count, neighbours):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (count,), generator=generator)
    groups = torch.randint(0, 4, (count,), generator=generator)
    expected = by_hand(features, labels, groups, neighbours, 0.1)
    assert knn_accuracy(features, labels, groups, neighbours) == pytest.approx(expected)


def test_parts_do_not_change_the_result(monkeypatch):
    features, labels = torch.randn(50, 4), torch.randint(0, 3, (50,))
    whole = knn_accuracy(features, labels, torch.arange(50), 5)
    monkeypatch.setattr("lad.evaluation.neighbours.ROWS", 7)
    assert knn_accuracy(features, labels, torch.arange(50), 5) == whole


def test_objects_of_the_same_image_do_not_vote():
    features, labels = torch.ones(4, 2), torch.tensor([0, 0, 1, 1])
    assert knn_accuracy(features, labels, torch.tensor([0, 0, 1, 1])) == 0.0
    assert knn_accuracy(features, labels, torch.zeros(4, dtype=torch.long)) == 0.0


def test_length_of_features_and_their_precision_do_not_matter():
    features, labels = torch.randn(20, 8), torch.randint(0, 2, (20,))
    expected = knn_accuracy(features, labels, torch.arange(20))
    scale = torch.rand(20, 1) + 0.5
    assert knn_accuracy(features * scale, labels, torch.arange(20)) == expected


def test_nothing_to_classify_is_an_error():
    with pytest.raises(ValueError, match="there is no sample"):
        knn_accuracy(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
