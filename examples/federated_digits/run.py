"""FedNTD against FedAvg on scikit-learn's handwritten digits: ten clients with two classes each.

python examples/federated_digits/run.py
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import lad  # noqa: F401

import numpy as np
import torch
from federated import Data, Settings, federate
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="federations of each arm, paired (default: 5)")
    parser.add_argument("--first-seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--rounds", type=int, default=Settings.rounds)
    parser.add_argument("--weight", type=float, default=1.0, help="beta of FedNTD (default: 1, the paper's)")
    parser.add_argument("--lr", type=float, default=Settings.lr)
    parser.add_argument("--epochs", type=int, default=Settings.epochs)
    return parser.parse_args()


def load(seed: int) -> tuple[list[Data], Data]:
    """Ten clients of two classes each, and test data of all classes.

    Client i has half of the training images of class i and half of those of class i + 1 (of 9: 0); a fifth of all
    images is for testing. The order of the classes and the halves are functions of the seed.
    """
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, random_state=seed, stratify=digits.target
    )
    generator = np.random.default_rng(seed)
    order = generator.permutation(10)
    halves: dict[int, list[np.ndarray]] = {}
    for kind in range(10):
        own = generator.permutation(train[digits.target[train] == kind])
        halves[kind] = np.array_split(own, 2)
    clients = []
    for index in range(10):
        first, second = order[index], order[(index + 1) % 10]
        own = np.concatenate([halves[first][0], halves[second][1]])
        clients.append((images[own], labels[own]))
    return clients, (images[test], labels[test])


def interval(differences: np.ndarray) -> str:
    """Mean of paired differences with its 95 % interval (Student's t)."""
    half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    return f"{differences.mean():+.2f} [{differences.mean() - half:+.2f}, {differences.mean() + half:+.2f}]"


def main() -> None:
    """Run both arms with each seed and print a table."""
    args = parse_args()
    torch.set_num_threads(1)
    settings = Settings(rounds=args.rounds, lr=args.lr, epochs=args.epochs)
    arms = {"FedAvg": settings, "FedNTD": replace(settings, weight=args.weight)}
    accuracy: dict[str, list[float]] = {name: [] for name in arms}
    forgetting: dict[str, list[float]] = {name: [] for name in arms}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        clients, test = load(seed)
        for name, own in arms.items():
            history = 100 * federate(clients, test, own, seed)
            accuracy[name].append(history[-1].mean().item())
            forgetting[name].append((history.amax(0) - history[-1]).mean().item())
        found = ", ".join(f"{name} {values[-1]:.2f} %" for name, values in accuracy.items())
        print(f"seed {seed}: {found}", flush=True)
    print("\n| | accuracy after the last round, % | forgetting, points |\n|---|---|---|")
    for name in arms:
        print(f"| {name} | {np.mean(accuracy[name]):.2f} | {np.mean(forgetting[name]):.2f} |")
    if args.seeds > 1:
        gain, lost = (np.subtract(values["FedNTD"], values["FedAvg"]) for values in (accuracy, forgetting))
        print(f"| FedNTD - FedAvg | {interval(gain)} | {interval(lost)} |")


if __name__ == "__main__":
    main()
