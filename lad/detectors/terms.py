"""Factors and names of loss terms."""

from __future__ import annotations

from typing import Any

from lad.detectors.bound import BoundMethod
from lad.errors import ConfigError


def weighted_losses(losses: dict[str, Any], weight: float) -> dict[str, Any]:
    """The losses of a detector times a factor; what is only logged beside them stays as it is.

    Args:
        losses: Tensors, or lists of tensors, by name; those whose name contains ``'loss'`` are losses.
        weight: The factor; losses are returned as they are for 1.
    """
    if weight == 1:
        return losses
    return {
        name: value
        if "loss" not in name
        else [each * weight for each in value]
        if isinstance(value, (list, tuple))
        else value * weight
        for name, value in losses.items()
    }


def add_terms(losses: dict[str, Any], one: BoundMethod, terms: dict[str, Any]) -> None:
    """Add a method's loss terms under their names in the log.

    Raises:
        ConfigError: another loss has a name already.
    """
    terms = {f"{one.prefix}{term}": value for term, value in terms.items()}
    if taken := sorted(set(terms) & set(losses)):
        raise ConfigError(f"method {one.name!r} returns {taken}, which another loss is already called.")
    losses.update(terms)
