"""Build and call the losses of class logits."""

from __future__ import annotations

import inspect
from typing import Any

from lad.errors import ConfigError, UnsupportedError

from mmdet.registry import MODELS
from torch import Tensor, nn


def build_logit_loss(owner: str, config: dict, use_sigmoid: bool) -> nn.Module:
    """A loss of two networks' logits from its config, in the form of a classifier.

    Args:
        owner: What the loss belongs to, for messages.
        config: A registered loss that lists in ``logit_forms`` (see :class:`lad.losses.weighted.WeightedLoss`) which
            classifiers it compares. ``use_sigmoid`` is filled in for those that have it, unless the config sets
            it.
        use_sigmoid: Whether the classes are binary classifiers.

    Raises:
        ConfigError: it is nothing of the registry, or reduced in another way than by what the method divides by.
        UnsupportedError: it does not compare such logits; the message lists what does.
    """
    form = "sigmoid" if use_sigmoid else "softmax"
    fitting = [key for key, known in MODELS.module_dict.items() if form in getattr(known, "logit_forms", ())]
    choice = ", ".join(sorted(fitting))
    if not isinstance(config, dict) or "type" not in config:
        raise ConfigError(
            f"{owner}: a loss is dict(type=..., ...), got {config!r:.60}: for {form} classifiers there are {choice}."
        )
    config, name = dict(config), config["type"]
    kind = MODELS.get(name) if isinstance(name, str) else name
    if kind is None:
        raise ConfigError(f"{owner}: there is no loss {name!r}: for {form} classifiers there are {choice}.")
    if form not in getattr(kind, "logit_forms", ()):
        raise UnsupportedError(
            f"{owner}: {kind.__name__} does not compare two networks' logits (n, C) of {form} classifiers: use one of "
            f"{choice}."
        )
    if config.get("reduction", "mean") != "mean":
        raise ConfigError(
            f"{owner}: the sum of {kind.__name__} is divided by the method, by its samples: leave out "
            f"reduction={config['reduction']!r}."
        )
    if "use_sigmoid" in inspect.signature(kind).parameters:
        config.setdefault("use_sigmoid", use_sigmoid)
    return MODELS.build(config)


def build_binary_loss(
    owner: str, config: dict, why: str, choice: str = "KDLoss or QualityKDLoss"
) -> nn.Module:
    """A loss of logits that are binary classifiers without labels: :func:`build_logit_loss` for these alone.

    Args:
        owner: What the loss belongs to, for messages.
        config: As for :func:`build_logit_loss`.
        why: Why there are no labels, for the message; like 'shared queries have none'.
        choice: What to use, for the message.

    Raises:
        ConfigError: as :func:`build_logit_loss`, or it is a softmax.
        UnsupportedError: as :func:`build_logit_loss`, or it needs labels.
    """
    loss = build_logit_loss(owner, config, use_sigmoid=True)
    if getattr(loss, "needs_labels", False):
        raise UnsupportedError(f"{owner}: {type(loss).__name__} needs labels, and {why}: use {choice}.")
    if not getattr(loss, "use_sigmoid", True):
        raise ConfigError(
            f"{owner}: {type(loss).__name__} compares binary classifiers: leave out use_sigmoid=False."
        )
    return loss


def logit_loss(
    loss: nn.Module,
    student: Any,
    teacher: Any,
    labels: Tensor,
    weight: Tensor,
    avg_factor: float | Tensor,
) -> Tensor:
    """The value of a loss, which is handed the labels where it wants them (``needs_labels``).

    Args:
        loss: What :func:`build_logit_loss` built.
        student, teacher: (..., C) logits, or what the loss's ``prepare`` makes of them. A loss that does not take any
            shape (``any_shape``) gets (n, C).
        labels: (...) target classes; everything outside [0, C) has none.
        weight: (...).
        avg_factor: What the weighted sum is divided by.
    """
    if not getattr(loss, "any_shape", False):
        student, teacher = student.flatten(0, -2), teacher.flatten(0, -2)
        labels, weight = labels.flatten(), weight.flatten()
    more = dict(labels=labels) if getattr(loss, "needs_labels", False) else {}
    return loss(student, teacher, weight=weight, avg_factor=avg_factor, **more)
