"""Average of the weights that clients send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def weighted_average(states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted average of state dicts (FedAvg): sum of w_i x_i / sum of w_i, entry by entry.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, arXiv
    1602.05629, Algorithm 1. Every entry keeps its data type: it is summed in float64 and rounded once, integers (such
    as the number of batches that a batch norm has seen) to the nearest. What is the same in all states stays bit for
    bit.

    Args:
        states: Of the clients, in an order that does not change: floating-point sums depend on it.
        weights: Of each, such as its number of images; not negative.

    Returns:
        The average, in the order of the first state.

    Raises:
        ValueError: there is no state, the weights are not as many, one is negative or all are 0, or entries differ in
            name or shape.

    Example:
        >>> import torch
        >>> from lad.federated.aggregation import weighted_average
        >>> first, second = ({"w": torch.tensor([x]), "n": torch.tensor(y)} for x, y in ((0.0, 1), (4.0, 4)))
        >>> weighted_average([first, second], [3, 1])
        {'w': tensor([1.]), 'n': tensor(2)}
    """
    if not states or len(states) != len(weights):
        raise ValueError(f"{len(states)} states and {len(weights)} weights cannot be averaged.")
    if min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(f"weights must not be negative and not all 0, got {list(weights)}.")
    first = states[0]
    for state in states[1:]:
        if state.keys() != first.keys():
            odd = sorted(state.keys() ^ first.keys())[0]
            raise ValueError(f"{odd!r} is in some of the states and not in others.")
    return {name: _average(name, [state[name] for state in states], weights) for name in first}


def _average(name: str, values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    first = values[0]
    for value in values[1:]:
        if value.shape != first.shape:
            raise ValueError(f"{name!r} has the shapes {tuple(first.shape)} and {tuple(value.shape)}.")
    if all(torch.equal(value, first) for value in values[1:]):
        return first.clone()
    total = sum(weights)
    mean = sum(value.double() * (weight / total) for value, weight in zip(values, weights, strict=True))
    assert isinstance(mean, Tensor)
    if not first.is_floating_point():
        mean = mean.round()
    return mean.to(first.dtype)


def norm_keys(state: State) -> set[str]:
    """Names of the entries of batch-norm layers with running statistics: all of each layer's.

    Example:
        >>> import torch
        >>> from lad.federated.aggregation import norm_keys
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
        >>> sorted(norm_keys(model.state_dict()))
        ['1.bias', '1.num_batches_tracked', '1.running_mean', '1.running_var', '1.weight']
    """
    layers = {name.removesuffix("running_mean") for name in state if name.endswith("running_mean")}
    return {name for name in state if name[: name.rfind(".") + 1] in layers}


def non_finite(state: State) -> str | None:
    """Name of the first entry with a value that is no number, None if there is none."""
    return next(
        (name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()),
        None,
    )
