"""Federated classification with the functions that federate detectors: FedAvg, and FedNTD on top of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from lad.federated.aggregation import weighted_average
from lad.losses import not_true_divergence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Images (n, 1, 8, 8) and their classes (n,).
Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Settings:
    """How a federation trains; by default as in the authors' code, with fewer rounds.

    Attributes:
        rounds: Number of rounds; all clients take part in each.
        epochs: Of a client in a round.
        batch: Images of a step.
        lr, momentum: Of SGD; lr is multiplied by ``decay`` after each round.
        decay: See ``lr``.
        weight: beta of FedNTD; 0: FedAvg.
        temperature: T of FedNTD.
    """

    rounds: int = 30
    epochs: int = 5
    batch: int = 50
    lr: float = 0.01
    momentum: float = 0.9
    decay: float = 0.99
    weight: float = 0.0
    temperature: float = 1.0


def make_model(seed: int) -> nn.Module:
    """A convolutional network of 10,000 weights whose initial values are a function of the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )


def train_client(
    model: nn.Module, data: Data, settings: Settings, lr: float, generator: torch.Generator
) -> nn.Module:
    """A client's round: a copy of the global model, trained on the client's data.

    Args:
        model: The global model, which teaches what the client does not have.
        data: The client's.
        settings: Of the federation.
        lr: Of this round.
        generator: Of the order of the images.
    """
    client = copy.deepcopy(model)
    optimizer = torch.optim.SGD(client.parameters(), lr=lr, momentum=settings.momentum)
    images, labels = data
    for _ in range(settings.epochs):
        for batch in torch.randperm(len(images), generator=generator).split(settings.batch):
            logits = client(images[batch])
            loss = F.cross_entropy(logits, labels[batch])
            if settings.weight:
                with torch.no_grad():
                    taught = model(images[batch])
                divergence = not_true_divergence(logits, taught, labels[batch], settings.temperature)
                loss = loss + settings.weight * divergence.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return client


def accuracies(model: nn.Module, data: Data) -> Tensor:
    """(10,) accuracy of each class."""
    images, labels = data
    with torch.no_grad():
        right = (model(images).argmax(1) == labels).float()
    return torch.stack([right[labels == kind].mean() for kind in range(10)])


def federate(clients: Sequence[Data], test: Data, settings: Settings, seed: int) -> Tensor:
    """Run a federation; returns (rounds, 10) accuracies of the global model on each class after each round.

    Args:
        clients: Their data.
        test: Data that no client has.
        settings: Of the federation.
        seed: Of initial weights and of the clients' batches; with a seed all arms see the same.
    """
    model = make_model(seed)
    history = []
    for number in range(settings.rounds):
        lr = settings.lr * settings.decay**number
        states = []
        for index, data in enumerate(clients):
            generator = torch.Generator().manual_seed(
                (seed * settings.rounds + number) * len(clients) + index
            )
            states.append(train_client(model, data, settings, lr, generator).state_dict())
        model.load_state_dict(weighted_average(states, [len(labels) for _, labels in clients]))
        history.append(accuracies(model, test))
    return torch.stack(history)
