"""Factors and names of loss terms."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lad.base.phases import reaching
from lad.base.progress import Progress
from lad.detectors.bound import BoundMethod
from lad.detectors.loss_ratio import LossRatio
from lad.errors import ConfigError
from lad.methods.base import DistillationMethod

from torch import Tensor

#: Classification losses of dense heads and RoI heads: ``'loss_cls'``, ``'s1.loss_cls'`` of a cascade's second stage,
#: ``'loss_cls_hard'``. An RPN's are called ``'loss_rpn_cls'``.
CLASS_LOSS = re.compile(r"(s\d+\.)?loss_cls(_.*)?")


def weighted_losses(
    losses: dict[str, Any], weight: float | Tensor, class_weight: float = 1.0
) -> dict[str, Any]:
    """The losses of a detector times a factor; what is only logged beside them stays as it is.

    Args:
        losses: Tensors, or lists of tensors, by name; those whose name contains ``'loss'`` are losses.
        weight: The factor; losses are returned as they are for 1.
        class_weight: A further factor of the classification losses (:data:`CLASS_LOSS`).
    """
    # A factor on the device is not read.
    if not isinstance(weight, Tensor) and weight == class_weight == 1:
        return losses
    return {
        name: _weighted(value, weight * (class_weight if CLASS_LOSS.fullmatch(name) else 1.0))
        if "loss" in name
        else value
        for name, value in losses.items()
    }


def _weighted(value: Any, weight: float | Tensor) -> Any:
    if not isinstance(weight, Tensor) and weight == 1:
        return value
    return [each * weight for each in value] if isinstance(value, (list, tuple)) else value * weight


def scaled_terms(
    one: BoundMethod, terms: dict[str, Any], own: Mapping[str, dict[str, Any]], progress: Progress
) -> dict[str, Any]:
    """A method's loss terms times its factor; one that follows the learner's own loss is logged beside them.

    Args:
        one: The method.
        terms: Its terms.
        own: The own losses of every learner.
        progress: The step's place in the run.
    """
    if isinstance(one.factor, LossRatio):
        factor = one.factor.at(progress, own[one.learner], terms)
        # What is called a loss would be added to them.
        name = f"factor_{one.name}".replace("loss", "term")
        return weighted_losses(terms, factor) | {name: factor}
    return weighted_losses(terms, one.factor.at(progress))


def add_terms(losses: dict[str, Any], one: BoundMethod, terms: dict[str, Any]) -> None:
    """Add a method's loss terms under their names in the log.

    Raises:
        ConfigError: another loss has a name already.
    """
    terms = {f"{one.prefix}{term}": value for term, value in terms.items()}
    if taken := sorted(set(terms) & set(losses)):
        raise ConfigError(f"method {one.name!r} returns {taken}, which another loss is already called.")
    losses.update(terms)


def reach_adapters(losses: dict[str, Any], resting: Sequence[DistillationMethod]) -> dict[str, Any]:
    """The same losses, one of which leads to the adapters of methods that do nothing in a step.

    They get gradients of zeros, so that DistributedDataParallel, which waits for them, trains as one process does.

    Args:
        losses: Of the step.
        resting: Those methods.
    """
    adapters = [p for method in resting for p in method.parameters() if p.requires_grad]
    name = next((key for key in losses if "loss" in key), None)
    if not adapters or name is None:
        return losses
    term = losses[name]
    first, *others = term if isinstance(term, (list, tuple)) else [term]
    first = reaching(first, adapters, [])
    return losses | {name: [first, *others] if isinstance(term, (list, tuple)) else first}
