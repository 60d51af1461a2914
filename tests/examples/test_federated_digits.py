"""The example on scikit-learn's digits: its parts, and a federation of one round."""

import sys

import pytest
import torch
from helpers import ROOT

sys.path.insert(0, str(ROOT / "examples/federated_digits"))
from federated import Settings, accuracies, federate, make_model, train_client


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, 1, 8, 8, generator=generator)
    return images, torch.arange(40) % 10


def test_same_seed_same_history_and_weight_changes_it(data):
    clients = [tuple(part[i::2] for part in data) for i in range(2)]
    settings = Settings(rounds=2, epochs=1, batch=5)
    first, again = (federate(clients, data, settings, 3) for _ in range(2))
    assert first.shape == (2, 10)
    assert torch.equal(first, again)
    model = make_model(0)
    states = [
        train_client(model, data, Settings(epochs=2, weight=weight), 0.1, torch.Generator().manual_seed(1))
        for weight in (0.0, 0.0, 1.0)
    ]
    weights = [state[0].weight for state in states]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], model[0].weight)


def test_global_model_is_not_trained_by_a_client(data):
    model = make_model(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_client(model, data, Settings(weight=1.0), 0.1, torch.Generator().manual_seed(1))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_accuracy_of_each_class(data):
    class Zero(torch.nn.Module):
        def forward(self, images):
            return torch.nn.functional.one_hot(torch.zeros(len(images), dtype=torch.long), 10).float()

    assert accuracies(Zero(), data).tolist() == [1.0] + 9 * [0.0]
